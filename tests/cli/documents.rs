//! The documents say what the binary does: every command and option in `docs/cli.md`, every key in `docs/config.md`.

use std::collections::BTreeSet;

use super::*;
use crate::support::host::workspace;

fn document(name: &str) -> String {
    fs::read_to_string(workspace().join("docs").join(name)).unwrap()
}

/// The long options in a text.
fn options(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_lowercase() || c == '-';
    let starts = text.match_indices("--").filter(|(at, _)| !text[..*at].ends_with(is_part));
    let names = starts.map(|(at, _)| text[at..].chars().take_while(|c| is_part(*c)).collect::<String>());
    names.map(|name| name.trim_end_matches('-').to_owned()).filter(|name| name.len() > 2).collect()
}

#[test]
fn the_command_line_is_documented_option_by_option() {
    let bench = embedded();
    let text = document("cli.md");
    let (general, sections) = text.split_once("\n## ").unwrap();
    // Said once, before the commands.
    let common: BTreeSet<String> = ["--help", "--config", "--json"].map(str::to_owned).into();
    assert!(general.contains("`-c FILE`") && general.contains("`--json`"), "{general}");
    let mut seen = BTreeSet::new();
    for section in sections.split("\n## ") {
        let title = section.lines().next().unwrap();
        let words: Vec<&str> = title.trim_matches('`').trim_start_matches("sandbar ").split([' ', '|']).collect();
        let commands: Vec<Vec<&str>> = match words[0] {
            "dlq" => ["list", "show", "requeue", "purge"].iter().map(|sub| vec!["dlq", sub]).collect(),
            "decode" => vec![vec!["decode"], vec!["encode"]],
            other => vec![vec![other]],
        };
        let mut known = BTreeSet::new();
        for command in &commands {
            known.extend(options(&bench.ok(&[&command[..], &["--help"]].concat(), b"")));
            seen.insert(command[0].to_owned());
        }
        let told: BTreeSet<String> = options(section);
        let undocumented: Vec<_> = known.difference(&told).filter(|option| !common.contains(*option)).collect();
        assert!(undocumented.is_empty(), "{title}: {undocumented:?} are not in docs/cli.md");
        let invented: Vec<_> = told.difference(&known).collect();
        assert!(invented.is_empty(), "{title}: {invented:?} do not exist");
    }
    let help = bench.ok(&["--help"], b"");
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // What goes on in the next line is further in.
    let names = listed.filter_map(|line| line.strip_prefix("  ")).filter(|line| !line.starts_with(' '));
    let commands: BTreeSet<String> = names.map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(commands.difference(&seen).collect::<Vec<_>>(), ["help"], "commands without a section");
}

/// A key that is not known is refused, so the sample proves its own keys; here the reference is held against it.
#[test]
fn the_reference_has_every_key_of_the_sample_and_no_other() {
    fn keys(prefix: &str, table: &toml::Table, found: &mut BTreeSet<String>) {
        for (key, value) in table {
            let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            match value {
                // Its keys are the operator's own.
                toml::Value::Table(_) if path == "secrets" => {}
                toml::Value::Table(inner) if path != "handler.grants.config" => keys(&path, inner, found),
                toml::Value::Array(items) if path == "handler" => {
                    for item in items {
                        keys(&path, item.as_table().unwrap(), found);
                    }
                }
                _ => {
                    found.insert(path);
                }
            }
        }
    }
    let mut sample = BTreeSet::new();
    keys("", &document("sandbar.toml").parse().unwrap(), &mut sample);
    let mut reference = BTreeSet::new();
    let mut table = String::new();
    for line in document("config.md").lines() {
        if line.starts_with('#') {
            table = line.trim_matches(['#', ' ', '`', '[', ']']).to_owned();
        } else if let Some(cell) = line.strip_prefix("| `")
            && !table.is_empty()
            && !table.contains(' ')
        {
            reference.insert(format!("{table}.{}", cell.split('`').next().unwrap()));
        }
    }
    assert_eq!(sample, reference);
}
