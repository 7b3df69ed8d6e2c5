use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::sync::{Arc, Barrier};

use rustix::fs::FileType;
use tempfile::TempDir;

use super::*;
use crate::sandbox::{Module, Sandbox, Settings};

/// Not a folder that a test made itself: the cache makes its own.
fn place() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("made/by/it");
    (dir, path)
}

fn host(path: &Path, secret: Option<&[u8]>) -> Arc<Sandbox> {
    let (code_cache, secret) = (Some(path.to_owned()), secret.map(Secret::new));
    Sandbox::new(&Settings { threads: 1, code_cache, secret, ..Settings::default() }).unwrap()
}

/// Small, so that compiling takes a moment only.
fn module() -> Vec<u8> {
    fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/contract/handler-0.1.0.wasm")).unwrap()
}

/// What a start of a host makes of the module.
fn start(path: &Path) -> Module {
    host(path, None).load(&module()).unwrap()
}

fn entries(path: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.extension().is_some_and(|extension| extension == "code"));
    found.sort();
    found
}

fn entry(path: &Path) -> PathBuf {
    let found = entries(path);
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].clone()
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_warm_start_compiles_nothing() {
    let (_dir, path) = place();
    let cold = start(&path);
    assert!(!cold.is_cached());
    let warm = start(&path);
    assert!(warm.is_cached());
    assert_eq!((warm.digest(), warm.imports()), (cold.digest(), cold.imports()));
    assert_eq!((mode(&path), mode(&entry(&path)), mode(&path.join("key"))), (0o700, 0o600, 0o600));
    assert_eq!(fs::read_dir(&path).unwrap().count(), 2, "nothing else is left behind");
    let without = Sandbox::new(&Settings { threads: 1, ..Settings::default() }).unwrap();
    assert!(!without.load(&module()).unwrap().is_cached());
}

#[test]
fn a_folder_without_code_is_bare_whatever_else_is_in_it() {
    // With a secret the key is not in the folder.
    for secret in [None, Some(b"of the operator".as_slice())] {
        let (_dir, path) = place();
        assert!(is_bare(&path), "there is no folder");
        let host = host(&path, secret);
        assert_eq!(fs::read_dir(&path).unwrap().count(), usize::from(secret.is_none()), "a key or nothing");
        assert!(is_bare(&path));
        host.load(&module()).unwrap();
        assert!(!is_bare(&path));
    }
}

#[test]
fn other_settings_of_the_engine_and_other_bytes_have_entries_of_their_own() {
    let (_dir, path) = place();
    start(&path);
    // A custom section changes the bytes and nothing else.
    let mut other = module();
    other.extend([0, 2, 1, b'x']);
    assert!(!host(&path, None).load(&other).unwrap().is_cached());
    assert_eq!(entries(&path).len(), 2);
    assert!(host(&path, None).load(&other).unwrap().is_cached() && start(&path).is_cached());
    let engine = |fuel: bool| Engine::new(wasmtime::Config::new().consume_fuel(fuel)).unwrap();
    assert_eq!(maker(&engine(true)), maker(&engine(true)));
    assert_ne!(maker(&engine(true)), maker(&engine(false)));
}

#[test]
fn what_does_not_verify_is_compiled_again_and_replaced() {
    let (_dir, path) = place();
    start(&path);
    let entry = entry(&path);
    let good = fs::read(&entry).unwrap();

    // Made by this program for this module, under another host's key.
    let (_elsewhere, foreign) = place();
    start(&foreign);
    let foreign = fs::read(self::entry(&foreign)).unwrap();
    assert_ne!(foreign[..48], good[..48]);
    // Made under this key, for another module.
    let mut other = module();
    other.extend([0, 2, 1, b'x']);
    host(&path, None).load(&other).unwrap();
    let other = entries(&path).into_iter().find(|found| *found != entry).unwrap();
    let other = fs::read(other).unwrap();

    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    let more = [&good[..], b"x"].concat();
    // As `wasmtime compile` leaves it, without ours before it.
    let bare = good[48..].to_vec();
    let cut = |to: usize| good[..to].to_vec();
    for (what, bytes) in [
        ("no magic", flipped(0)),
        ("another code", flipped(20)),
        ("the first byte of the code", flipped(48)),
        ("the middle of the code", flipped(good.len() / 2)),
        ("the last byte", flipped(good.len() - 1)),
        ("nothing", cut(0)),
        ("cut in the magic", cut(10)),
        ("cut in the tag", cut(47)),
        ("no code", cut(48)),
        ("cut in half", cut(good.len() / 2)),
        ("one byte more", more),
        ("made elsewhere", bare),
        ("of another key", foreign),
        ("of another module", other),
    ] {
        fs::write(&entry, bytes).unwrap();
        assert!(!start(&path).is_cached(), "{what} is used");
        assert_eq!(fs::read(&entry).unwrap().len(), good.len(), "{what} is not replaced");
        assert!(start(&path).is_cached(), "{what} is not replaced");
    }
}

#[test]
fn what_is_no_private_file_is_compiled_again_and_replaced() {
    let (dir, path) = place();
    start(&path);
    let entry = entry(&path);
    let good = fs::read(&entry).unwrap();
    let spoiled = |what: &str| {
        assert!(!start(&path).is_cached(), "{what} is used");
        let about = fs::symlink_metadata(&entry).unwrap();
        assert!(about.is_file() && mode(&entry) == 0o600, "{what} is not replaced");
        assert!(start(&path).is_cached(), "{what} is not replaced");
    };
    for wrong in [0o644, 0o620, 0o602, 0o601] {
        set_mode(&entry, wrong);
        spoiled(&format!("an entry of mode {wrong:o}"));
    }
    // It leads to the very bytes that are good.
    let elsewhere = dir.path().join("elsewhere");
    fs::write(&elsewhere, &good).unwrap();
    set_mode(&elsewhere, 0o600);
    fs::remove_file(&entry).unwrap();
    symlink(&elsewhere, &entry).unwrap();
    spoiled("a symbolic link");
    assert_eq!(fs::read(&elsewhere).unwrap(), good, "what a link leads to is left alone");
    fs::remove_file(&entry).unwrap();
    let folder = rustix::fs::open(&path, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()).unwrap();
    let name = entry.file_name().unwrap();
    rustix::fs::mknodat(&folder, name, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    spoiled("a pipe");
    // A directory stays where it is, and is no reason not to start.
    fs::remove_file(&entry).unwrap();
    fs::create_dir(&entry).unwrap();
    assert!(!start(&path).is_cached());
    assert!(!start(&path).is_cached());
}

#[test]
fn a_folder_that_others_can_reach_is_not_used() {
    let (dir, path) = place();
    start(&path);
    let count = || fs::read_dir(&path).unwrap().count();
    let before = count();
    for wrong in [0o755, 0o770, 0o701] {
        set_mode(&path, wrong);
        assert!(!start(&path).is_cached(), "mode {wrong:o}");
    }
    set_mode(&path, 0o700);
    assert!(start(&path).is_cached());
    symlink(&path, dir.path().join("link")).unwrap();
    for link in ["link", "link/"] {
        let link = dir.path().join(link);
        assert!(!start(&link).is_cached(), "{} leads there", link.display());
    }
    let file = dir.path().join("file");
    fs::write(&file, "x").unwrap();
    assert!(!start(&file).is_cached());
    assert!(!start(&file.join("below")).is_cached());
    assert_eq!(count(), before, "nothing was written");
    assert_eq!(fs::read(&file).unwrap(), b"x");
}

#[test]
fn a_folder_that_cannot_be_written_serves_what_it_has() {
    let (_dir, path) = place();
    start(&path);
    for file in [entry(&path), path.join("key")] {
        set_mode(&file, 0o400);
    }
    set_mode(&path, 0o500);
    assert!(start(&path).is_cached());
    set_mode(&path, 0o700);
    // A folder that is gone takes no files, whoever asks.
    let host = host(&path, None);
    fs::remove_dir_all(&path).unwrap();
    assert!(!host.load(&module()).unwrap().is_cached());
    assert!(!path.exists());
}

#[test]
fn a_key_that_others_could_read_is_replaced_and_so_are_its_entries() {
    let (_dir, path) = place();
    start(&path);
    let key = path.join("key");
    let mut keys = vec![fs::read(&key).unwrap()];
    let spoilers: [&dyn Fn(); 3] =
        [&|| set_mode(&key, 0o640), &|| fs::write(&key, b"short").unwrap(), &|| fs::write(&key, [7; 33]).unwrap()];
    for spoil in spoilers {
        spoil();
        assert!(!start(&path).is_cached());
        assert_eq!(mode(&key), 0o600);
        let new = fs::read(&key).unwrap();
        assert!(new.len() == 32 && !keys.contains(&new));
        keys.push(new);
        assert!(start(&path).is_cached());
    }
    assert_eq!(entries(&path).len(), keys.len());
}

#[test]
fn with_a_secret_the_key_is_not_in_the_folder() {
    let (_dir, path) = place();
    let load = |secret: &[u8]| host(&path, Some(secret)).load(&module()).unwrap().is_cached();
    assert!(!load(b"the secret of one"));
    assert!(load(b"the secret of one"));
    assert!(!path.join("key").exists());
    assert!(!load(b"the secret of another"));
    assert!(load(b"the secret of one"), "each has an entry of its own");
    // Somebody who can write the folder and lacks the secret has nothing that is believed.
    let [one, two] = &entries(&path)[..] else { panic!("two entries") };
    let (first, second) = (fs::read(one).unwrap(), fs::read(two).unwrap());
    fs::write(one, &second).unwrap();
    fs::write(two, &first).unwrap();
    assert!(!load(b"the secret of one") && !load(b"the secret of another"));
}

#[test]
fn several_hosts_that_start_at_once_have_one_key_and_one_entry() {
    const HOSTS: usize = 8;
    let (_dir, path) = place();
    let (barrier, wasm) = (Barrier::new(HOSTS), module());
    std::thread::scope(|scope| {
        for _ in 0..HOSTS {
            scope.spawn(|| {
                barrier.wait();
                host(&path, None).load(&wasm).unwrap();
            });
        }
    });
    assert_eq!(fs::read_dir(&path).unwrap().count(), 2, "the key and the entry");
    assert!(start(&path).is_cached());
}

#[test]
fn entries_that_were_not_used_for_longest_go_first() {
    let (_dir, path) = place();
    let sandbox = host(&path, None);
    let wasm = |n: u8| [&module()[..], &[0, 2, 1, n]].concat();
    let age = |path: &Path, seconds: u64| {
        let file = File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
    };
    let mut known: Vec<PathBuf> = Vec::new();
    for n in 0..4 {
        sandbox.load(&wasm(n)).unwrap();
        let new = entries(&path).into_iter().find(|entry| !known.contains(entry)).unwrap();
        known.push(new);
    }
    for (entry, seconds) in known.iter().zip([400, 300, 200, 100]) {
        age(entry, seconds);
    }
    // The oldest is used again.
    assert!(host(&path, None).load(&wasm(0)).unwrap().is_cached());
    let (fresh, old) = (path.join("a.tmp"), path.join("b.tmp"));
    for file in [&fresh, &old] {
        fs::write(file, "x").unwrap();
    }
    age(&old, 2 * ABANDONED.as_secs());

    let cache = Cache::open(&path, &sandbox.engine, None).unwrap();
    cache.trim(3, u64::MAX).unwrap();
    assert!(!known[1].exists() && known[0].exists() && known[2].exists() && known[3].exists());
    let size = fs::metadata(&known[0]).unwrap().len();
    cache.trim(100, size * 2).unwrap();
    assert!(known[0].exists() && !known[2].exists() && known[3].exists());
    cache.trim(0, 0).unwrap();
    assert!(known[0].exists(), "the last one stays: somebody has just made it");
    assert!(fresh.exists() && !old.exists(), "what a host left that was killed goes, what one is writing stays");
}
