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

/// Datasets that have a component are found on the site that has them, and filled in.
#[test]
fn datasets_of_the_tutorials_by_name() {
    let home = folder("named_datasets");
    let rows = "{\"query\": \"你是{{NAME}}吗?\", \"response\": \"我是{{NAME}}, {{AUTHOR}}的\", \"tag\": \"zh\"}\n\
                {\"query\": \"Are you {{NAME}}?\", \"response\": \"{{NAME}} of {{AUTHOR}}.\", \"tag\": \"en\"}\n";
    let cognition: Files = vec![("self_cognition.jsonl", rows.as_bytes().to_vec(), false)];
    let thought = "{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}, {\"role\": \"assistant\", \"thinking\": \"Hm.\", \"content\": \"Ja.\"}]}\n";
    let thinking: Files = vec![("train.jsonl", thought.as_bytes().to_vec(), false)];
    let cat = "{\"instruction\": \"i\", \"input\": \"\", \"output\": \"Miau.\", \"history\": []}\n";
    let server = Server::start(move |request, _| {
        let path = request.path.split('?').next().unwrap_or_default();
        let of_modelscope = |name: &str, row: &'static str| match path {
            path if path.ends_with("/repo/tree") => {
                let file = serde_json::json!({"Path": name, "Type": "blob", "Size": row.len(), "Sha256": loopback::sha256(row.as_bytes())});
                let body =
                    serde_json::json!({"Code": 200, "Success": true, "Data": {"Files": [file]}});
                Answer::new(200, body.to_string())
            }
            _ => Answer::bytes(request, row.as_bytes()),
        };
        match path {
            path if path.contains("modelscope/self-cognition") => {
                hugging_face("datasets/modelscope/self-cognition", &cognition, request)
            }
            path if path.contains("Multilingual-Thinking") => hugging_face(
                "datasets/HuggingFaceH4/Multilingual-Thinking",
                &thinking,
                request,
            ),
            path if path.contains("himzhzx/muice-dataset-train.catgirl") => {
                of_modelscope("cat.jsonl", cat)
            }
            path if path.contains("swift/self-cognition") => of_modelscope(
                "self_cognition.jsonl",
                "{\"query\": \"q\", \"response\": \"{{NAME}} on ModelScope\", \"tag\": \"en\"}\n",
            ),
            _ => Answer::new(404, "{}"),
        }
    });
    let run = |arguments: &[&str]| {
        let home = home.display().to_string();
        let environment = [
            ("HF_HOME", home.as_str()),
            ("HF_HUB_CACHE", ""),
            ("HF_TOKEN", ""),
            ("HF_HUB_OFFLINE", ""),
            ("USE_HF", ""),
            ("MODELSCOPE_CACHE", home.as_str()),
            ("MODELSCOPE_DOMAIN", server.url.as_str()),
            ("HF_ENDPOINT", server.url.as_str()),
            ("NO_PROXY", "127.0.0.1"),
        ];
        let model = format!("{GOLDENS}/model_bf16");
        let first = [
            "data",
            "--model",
            &model,
            "--current_date",
            "2025-08-05",
            "--samples",
            "9",
        ];
        let output = apus(&[&first[..], arguments].concat(), &environment);
        (output.status.success(), text(&output))
    };
    let names = ["--model_name", "小黄", "Xiao Huang", "--model_author", "Me"];
    let shown = |arguments: &[&str], expected: &[&str]| {
        let (fine, said) = run(&[&names[..], arguments].concat());
        assert!(
            fine && expected.iter().all(|part| said.contains(part)),
            "{said}"
        );
        assert!(!said.contains("{{") && !said.contains("not used"), "{said}");
    };
    let filled = [
        "你是小黄吗?",
        "我是小黄, Me的",
        "Are you Xiao Huang?",
        "Xiao Huang of Me.",
    ];
    shown(&["--dataset", "swift/self-cognition#2"], &filled);
    shown(&["--dataset", "hf::modelscope/self-cognition"], &filled);
    shown(
        &["--dataset", "swift/self-cognition:qwen3"],
        &["Are you Xiao Huang? /no_think"],
    );
    shown(
        &["--dataset", "ms::swift/self-cognition"],
        &["Xiao Huang on ModelScope"],
    );
    shown(
        &["--dataset", "swift/self-cognition", "--use_hf", "false"],
        &["Xiao Huang on ModelScope"],
    );
    shown(
        &[
            "--dataset",
            "HuggingFaceH4/Multilingual-Thinking",
            "--use_hf",
            "false",
        ],
        &["Hm.", "Ja."],
    );
    shown(
        &["--dataset", "himzhzx/muice-dataset-train.catgirl#1"],
        &["Miau."],
    );
    let (fine, said) = run(&["--dataset", "swift/self-cognition"]);
    assert!(!fine && said.contains("model_name has 0 texts"), "{said}");
    let given = "swift/self-cognition?model_name=A&model_author=B";
    let (fine, said) = run(&["--dataset", given]);
    assert!(fine && said.contains("A of B."), "{said}");
}
