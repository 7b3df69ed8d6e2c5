#!/usr/bin/env python3
"""container-check.py [--required]   builds the Dockerfile's image without a container engine, and serves an event with it.

Every stage's root is made of Debian's packages, the steps run in it by chroot, and the last one's is what the image would
be. A stage FROM rust:… gets the toolchain of this machine, whose version must be the tag's, and only the packages that a
build in C needs; other stages get what debootstrap calls minbase. So a step may fail here for a package that the real image
has; none can pass that the real one lacks.

Everything happens in a mount and process namespace that ends with this program, however that ends, and takes the mounts
and whatever runs with it. Roots and what cargo has compiled stay in target/container for the next time.

It needs root and a mirror of Debian. Without, it says so and is content, unless --required is given or the environment has CI.
"""

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import image
from dockerfile import Ignore, Unsupported, stages

ROOT = Path(__file__).resolve().parent.parent
KEPT = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve() / "container"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# What a build in C needs; the ordinary Rust image has more.
COMPILER = ["gcc", "libc6-dev", "ca-certificates"]
TOOLCHAIN = "/usr/local/toolchain"
CARGO_HOME = "/usr/local/cargo"

# Seconds: a release build on one slow core, debootstrap over a slow line, anything else.
BUILD, BOOTSTRAP, ORDINARY = 3000, 900, 120

# The exit code by which the inner half says so to the outer one.
WITHOUT_MIRROR = 75


class NoMirror(Exception):
    """Debian's packages cannot be had here."""


def say(text):
    print(f"container-check: {text}", flush=True)


def run(command, seconds, **options):
    """Runs a command; its output is shown if it fails."""
    options.setdefault("stdin", subprocess.DEVNULL)
    try:
        subprocess.run(command, check=True, timeout=seconds, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
    except subprocess.CalledProcessError as error:
        print("\n".join(error.stdout.decode(errors="replace").splitlines()[-40:]), file=sys.stderr)
        raise


def output(*command):
    return subprocess.run(command, check=True, timeout=ORDINARY, stdout=subprocess.PIPE, text=True).stdout.strip()


# === Outside: what is allowed, what must be installed ===


def outside(required):
    def cannot(why):
        if required:
            sys.exit(f"container-check: {why}")
        say(f"NOTHING WAS CHECKED: {why}")
        sys.exit(0)

    # Dies with this half, whatever ends it.
    isolated = ["setpriv", "--pdeathsig", "KILL", "unshare"]
    isolated += ["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if not shutil.which("unshare") or not shutil.which("setpriv"):
        cannot("it needs Linux, with unshare and setpriv")
    if os.geteuid() != 0:
        cannot("it needs root, for chroot and mount")
    probe = "mount -t tmpfs none /mnt && mknod /mnt/null c 1 3 && echo >/mnt/null"
    if subprocess.run([*isolated, "sh", "-c", probe], stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL).returncode:
        cannot("mounts or devices are forbidden here")
    try:
        run([ROOT / "scripts/apt-install.sh", "debootstrap"], BOOTSTRAP)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        cannot("debootstrap cannot be installed")
    # The build itself is offline, so that what it needs is fetched once for the whole machine.
    run(["cargo", "fetch", "--locked"], BOOTSTRAP, cwd=ROOT)
    KEPT.mkdir(parents=True, exist_ok=True)
    lock = (KEPT / "lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    # What a run left that was killed: nothing is mounted there any more.
    for left in KEPT.glob("run-*"):
        shutil.rmtree(left, ignore_errors=True)
    scratch = tempfile.mkdtemp(prefix="run-", dir=KEPT)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        # The other half ends with this one, and its mounts with it: below `scratch` are only plain files afterwards.
        inner = subprocess.run([*isolated, sys.executable, __file__, "--inside", scratch], stdin=subprocess.DEVNULL)
        if inner.returncode == WITHOUT_MIRROR:
            cannot("there is no mirror of Debian's packages")
        return inner.returncode
    finally:
        for _ in range(20):
            with suppress(OSError):
                shutil.rmtree(scratch)
                break
            time.sleep(0.1)


# === Inside: the stages ===


class Root:
    """A stage's files, and what is run in them."""

    def __init__(self, path, packages, suite):
        self.path = path
        path.mkdir()
        run(["tar", "-xf", base(suite, packages), "-C", path], ORDINARY)
        self.mount("/proc", "-t", "proc", "proc")
        self.mount("/dev/shm", "-t", "tmpfs", "tmpfs")
        self.environment = {"PATH": PATH, "HOME": "/root"}

    def inner(self, path):
        return self.path / str(path).lstrip("/")

    def mount(self, at, *what):
        self.inner(at).mkdir(parents=True, exist_ok=True)
        run(["mount", *what, self.inner(at)], ORDINARY)

    def bind(self, source, at, writable=False):
        if Path(source).is_file():
            self.inner(at).parent.mkdir(parents=True, exist_ok=True)
            self.inner(at).touch()
            run(["mount", "--bind", source, self.inner(at)], ORDINARY)
        else:
            self.mount(at, "--bind", source)
        if not writable:
            run(["mount", "-o", "remount,bind,ro", self.inner(at)], ORDINARY)

    def give_rust(self, version):
        """This machine's toolchain and what cargo has fetched."""
        found = output("rustc", "--version").split()[1]
        if not f"{found}.".startswith(f"{version}."):
            raise image.Wrong(f"the image is of Rust {version}, this machine has {found}: mend one of the two")
        self.bind(output("rustc", "--print", "sysroot"), TOOLCHAIN)
        cargo = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo"))
        self.bind(cargo / "registry", f"{CARGO_HOME}/registry")
        self.environment |= {"PATH": f"{TOOLCHAIN}/bin:{PATH}", "CARGO_HOME": CARGO_HOME, "CARGO_NET_OFFLINE": "true"}

    def enter(self, directory, user):
        """What the child does before it becomes the program."""

        def entering():
            os.chroot(self.path)
            os.chdir(directory)
            group = group_of(user)
            os.setgroups([])
            os.setgid(group)
            os.setuid(int(user))

        return entering

    def start(self, command, directory, environment, user, **options):
        environment = self.environment | environment
        return subprocess.Popen(
            command, env=environment, preexec_fn=self.enter(directory, user), **{"stdin": subprocess.DEVNULL} | options
        )


def group_of(user):
    """The group that a user without one is run under: its own where the image knows it. Asked within the root."""
    for line in Path("/etc/passwd").read_text().splitlines():
        fields = line.split(":")
        if fields[2] == user:
            return int(fields[3])
    return 0


def base(suite, packages):
    """A root of Debian's packages, made once."""
    name = "-".join([suite, *packages])
    kept = KEPT / f"{name}.tar"
    if not kept.exists():
        say(f"debootstrap {name}")
        with tempfile.TemporaryDirectory(prefix="run-", dir=KEPT) as folder:
            include = [f"--include={','.join(packages)}"] if packages else []
            try:
                run(["debootstrap", "--variant=minbase", *include, suite, folder, mirror(suite)], BOOTSTRAP)
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
                raise NoMirror(f"debootstrap: {error}") from None
            shutil.rmtree(Path(folder, "var/cache/apt/archives"))
            shutil.rmtree(Path(folder, "var/lib/apt/lists"))
            run(["tar", "--one-file-system", "-cf", f"{kept}.new", "-C", folder, "."], ORDINARY)
        os.replace(f"{kept}.new", kept)
    return kept


def mirror(suite):
    """Where this machine's own packages come from."""
    targets = output("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages")
    found = [line.split() for line in targets.splitlines()]
    # Another release's will do: a mirror has them all. Security and third parties lie elsewhere.
    same = [url for url, release, component in found if (release, component) == (suite, "main")]
    near = [url for url, _, component in found if component == "main" and url.rstrip("/").endswith("/debian")]
    if not same + near:
        raise NoMirror(f"apt here knows no mirror of Debian {suite}")
    return (same + near)[0]


def make(stage, root, roots):
    """Runs the steps of a stage."""
    warm = False
    for step in stage.steps:
        shown = step.what if isinstance(step.what, str) else " ".join(step.what)
        begun = time.monotonic()
        root.inner(step.directory).mkdir(parents=True, exist_ok=True)
        if step.word == "COPY":
            copy(step, root, roots)
        else:
            if "CARGO_HOME" in root.environment and not warm:
                # So that the second time compiles only what has changed.
                (KEPT / "build").mkdir(exist_ok=True)
                root.bind(KEPT / "build", f"{step.directory}/target", writable=True)
                warm = True
            run(
                ["/bin/sh", "-c", step.what], BUILD, env=root.environment | step.environment,
                preexec_fn=root.enter(step.directory, step.user),
            )
        say(f"{stage.name}: {step.word} {re.sub(r' +', ' ', shown)}: {time.monotonic() - begun:.1f} s")
    root.inner(stage.directory).mkdir(parents=True, exist_ok=True)


def copy(step, root, roots):
    """COPY: tar reads within one root and writes within the other, so that no link leads out of either."""
    *sources, into = step.what
    into = os.path.normpath(os.path.join(step.directory, into)) + ("/" if into.endswith("/") else "")
    write = ["tar", "--keep-directory-symlink", "--no-same-owner", "-xpf", "-", "-C"]
    for source in sources:
        if step.source is None:
            if source != ".":
                raise Unsupported(f"COPY {source}: only the whole context")
            names = "\0".join(f"./{name}" for name in Ignore((ROOT / ".dockerignore").read_text()).context(ROOT))
            read, enter, target = ["tar", "--null", "--no-recursion", "-C", ROOT, "-T", "-", "-cf", "-"], None, into
        else:
            origin, names, enter = roots[step.source], "", roots[step.source].enter("/", "0")
            if origin.inner(source).is_dir():
                read, target = ["tar", "-C", source, "-cf", "-", "."], into
            else:
                folder, name = os.path.split(source)
                target, wanted = os.path.split(into)
                if wanted not in ("", name):
                    raise Unsupported(f"COPY {source} {into}: under another name")
                read = ["tar", "-C", folder, "-cf", "-", name]
        root.inner(target).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile() as archive:
            read.insert(1, "--owner=0")
            read.insert(2, "--group=0")
            result = subprocess.run(read, input=names.encode(), stdout=archive, preexec_fn=enter, timeout=ORDINARY)
            result.check_returncode()
            archive.seek(0)
            run([*write, target], ORDINARY, stdin=archive, preexec_fn=root.enter("/", "0"))


def inside(scratch):
    os.umask(0o022)
    found = stages((ROOT / "Dockerfile").read_text())
    roots = {}
    for stage in found:
        if match := re.fullmatch(r"rust:([\d.]+)-(\w+)", stage.image):
            root = Root(scratch / stage.name, COMPILER, match[2])
            root.give_rust(match[1])
        elif match := re.fullmatch(r"debian:(\w+)-slim", stage.image):
            root = Root(scratch / stage.name, [], match[1])
        else:
            raise Unsupported(f"FROM {stage.image}")
        say(f"{stage.name}: FROM {stage.image}")
        make(stage, root, roots)
        roots[stage.name] = root
    image.serve(found[-1], roots[found[-1].name], scratch, say)


def main(arguments):
    if arguments[:1] == ["--inside"]:
        try:
            inside(Path(arguments[1]))
        except NoMirror as error:
            say(error)
            return WITHOUT_MIRROR
        except Unsupported as error:
            sys.exit(f"container-check: this is not known here: {error}")
        except (image.Wrong, subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            sys.exit(f"container-check: {error}")
        return 0
    if set(arguments) - {"--required"}:
        sys.exit(__doc__)
    return outside(bool(arguments) or os.environ.get("CI", "") not in ("", "0", "false"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
