use std::path::Path;

use super::*;
use crate::config::Environment;

#[tokio::test]
async fn handlers_of_one_file_share_what_it_was_compiled_to() {
    let folder = tempfile::tempdir().unwrap();
    let contract = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/contract/handler-0.1.0.wasm");
    std::fs::copy(contract, folder.path().join("one.wasm")).unwrap();
    let handler = |name: &str| format!("[[handler]]\nname = \"{name}\"\nmodule = \"one.wasm\"\ntopics = [\"t\"]\n");
    let text = format!("[bus]\nurl = \"sqlite:events.db\"\n{}{}", handler("a"), handler("b"));
    let file = folder.path().join("sandbar.toml");
    std::fs::write(&file, text).unwrap();
    let config = Config::load(&file, &Environment::default()).unwrap();
    let bus = bus::open(&config.bus).await.unwrap();
    let decoder = Arc::new(Decoder::load(&config.schemas).unwrap());

    let loaded = load(&config, &bus, &decoder).unwrap_or_else(|error| panic!("{error}"));
    let [a, b] = &loaded.prepared[..] else { panic!("two handlers") };
    assert_eq!((a.handler.spec().name.as_str(), b.handler.spec().name.as_str()), ("a", "b"));
    assert!(std::ptr::eq(a.handler.module().digest(), b.handler.module().digest()), "it was compiled twice");
}
