//! The real binary takes model and data by name, from a server on this machine.

mod common;
#[path = "../core/data/tests/loopback/mod.rs"]
mod loopback;

use common::{apus, folder, text, words};
use loopback::{Answer, Files, Server, hugging_face};
use std::fs;
use std::path::Path;

const GOLDENS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/tiny");

fn model() -> Files {
    let names = [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    let read = |name| fs::read(Path::new(GOLDENS).join("model_bf16").join(name)).unwrap();
    names
        .map(|name| (name, read(name), name.ends_with("safetensors")))
        .to_vec()
}

fn server() -> Server {
    let rows = fs::read(Path::new(GOLDENS).join("chat_train.jsonl")).unwrap();
    let data: Files = vec![
        ("train.jsonl", rows, false),
        ("test.jsonl", b"broken".to_vec(), false),
    ];
    let model = model();
    Server::start(move |request, _| match request.path.as_str() {
        path if path.contains("owner/tiny") => hugging_face("models/owner/tiny", &model, request),
        path if path.contains("owner/rows") => hugging_face("datasets/owner/rows", &data, request),
        _ => Answer::new(404, "{}"),
    })
}

#[test]
fn a_run_by_names_and_again_without_a_network() {
    let home = folder("hub");
    let server = server();
    let run = |line: &str, endpoint: &str| {
        let home = home.display().to_string();
        let environment = [
            ("HF_HOME", home.as_str()),
            ("HF_HUB_CACHE", ""),
            ("HF_TOKEN", ""),
            ("HF_HUB_OFFLINE", ""),
            ("USE_HF", ""),
            ("APUS_CACHE", home.as_str()),
            ("HF_ENDPOINT", endpoint),
            ("NO_PROXY", "127.0.0.1"),
        ];
        let output = apus(&words(line), &environment);
        (output.status.success(), text(&output))
    };
    let out = home.join("output");
    let sft = format!(
        "sft --device cpu --model owner/tiny --dataset owner/rows#8 --max_steps 1 --add_version false --output_dir {}",
        out.display()
    );
    let (fine, said) = run(&format!("{sft} --dry_run true"), &server.url);
    assert!(fine && said.contains("memory plan"), "{said}");
    assert!(said.contains("downloading owner/tiny: 6 files"), "{said}");
    assert!(server.asked("test.jsonl").is_empty());

    let listings = || server.asked("models/owner/tiny/revision").len();
    let before = listings();
    let cached = format!(
        "data {GOLDENS}/chat_train.jsonl --tokenizer owner/tiny --samples 0 --load_from_cache_file true"
    );
    let (fine, said) = run(&cached, &server.url);
    assert!(fine, "{said}");
    assert_eq!(listings(), before + 1);

    let nowhere = "http://127.0.0.1:9";
    let (fine, said) = run(&sft, nowhere);
    assert!(fine && said.contains("cannot be reached"), "{said}");
    let args = fs::read_to_string(out.join("args.json")).unwrap();
    assert!(args.contains("\"model\": \"owner/tiny\""), "{args}");
    let (fine, said) = run(
        &format!(
            "export --adapters {} --merge_lora true",
            out.join("checkpoint-1").display()
        ),
        &server.url,
    );
    assert!(
        fine && out.join("checkpoint-1-merged/model.safetensors").is_file(),
        "{said}"
    );

    let (fine, said) = run(
        "sft --device cpu --model owner/nope --dataset owner/rows",
        &server.url,
    );
    assert!(
        !fine && said.contains("neither such a path here nor the model owner/nope"),
        "{said}"
    );
    let (fine, said) = run(
        "sft --device cpu --model ownertiny --dataset owner/rows",
        &server.url,
    );
    assert!(
        !fine && said.contains("no such model directory") && said.contains("owner/name"),
        "{said}"
    );
}
