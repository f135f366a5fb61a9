//! Adapters beside the model: named by requests, added and removed while the server runs, by the administrator and from one folder.

use super::server::{GOLDENS, Server};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

fn answer(server: &Server, model: &str) -> Value {
    let body = json!({"model": model, "prompt": [7, 8, 9], "max_tokens": 16, "temperature": 0, "ignore_eos": true, "logprobs": 0});
    let response = server.post("/v1/completions", &body);
    assert_eq!(response.status, 200, "{response:?}");
    response.json()["choices"][0]["text"].clone()
}

fn copy(from: &str, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from)
        .unwrap()
        .map(|entry| entry.unwrap().path())
    {
        fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
    }
}

#[test]
fn adapters_come_and_go() {
    let home = super::common::folder("deploy-adapters");
    let root = home.join("adapters");
    copy(
        &format!("{GOLDENS}/adapter_grad_attn_experts"),
        &root.join("late"),
    );
    copy(
        &format!("{GOLDENS}/adapter_grad_attn"),
        &home.join("outside"),
    );
    // One whose targets the model does not have.
    copy(
        &format!("{GOLDENS}/adapter_grad_attn"),
        &root.join("misfit"),
    );
    let config = root.join("misfit/adapter_config.json");
    let text = fs::read_to_string(&config)
        .unwrap()
        .replace("q_proj", "w_pack");
    fs::write(&config, text).unwrap();
    // One whose tuner refuses every set-up.
    let tuned = json!({
        "peft_type": "NONE",
        "apus_tuner": {"name": "checks", "options": {}, "modules": [], "modules_to_save": []},
    });
    fs::create_dir_all(root.join("refused")).unwrap();
    fs::write(root.join("refused/adapter_config.json"), tuned.to_string()).unwrap();
    let server = Server::start(&format!(
        "--adapters early={GOLDENS}/adapter_grad_attn --adapters_dir {} --admin_api_key boss --plugin {}",
        root.display(),
        super::common::library("asking_plugin").display()
    ));
    let names = |server: &Server| -> Vec<String> {
        let models = server.get("/v1/models").json();
        models["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|model| model["id"].as_str().unwrap().to_owned())
            .collect()
    };
    let admin = |path: &str, body: Value| {
        server.post_with(path, &body.to_string(), "Authorization: Bearer boss\r\n")
    };
    let load = |name: &str, path: &str| {
        admin(
            "/v1/load_lora_adapter",
            json!({"lora_name": name, "lora_path": path}),
        )
    };
    assert_eq!(names(&server), ["tiny", "early"]);
    assert_eq!(server.get("/v1/models/early").json()["parent"], "tiny");
    let (base, early) = (answer(&server, "tiny"), answer(&server, "early"));
    assert_ne!(base, early);

    assert_eq!(load("late", "late").status, 200);
    assert_eq!(names(&server), ["tiny", "early", "late"]);
    let late = answer(&server, "late");
    assert!(late != base && late != early);
    assert_eq!(
        (answer(&server, "tiny"), answer(&server, "early")),
        (base.clone(), early)
    );
    for (name, path, says) in [
        ("late", "late", "loaded already"),
        ("tiny", "late", "name of the model itself"),
        ("a b", "late", "expected 1 to 128 letters"),
        ("x", "../outside", "no folder of an adapter below"),
        ("x", "/etc", "no folder of an adapter below"),
        (
            "x",
            &home.join("outside").display().to_string(),
            "no folder of an adapter below",
        ),
        ("x", "gone", "no folder of an adapter below"),
        ("x", "misfit", "layers.0.self_attn.q_proj"),
        ("x", "refused", "check: refused with the optimizer"),
        ("early", "refused", "check: refused with the optimizer"),
    ] {
        let response = load(name, path);
        let message = response.json()["error"]["message"]
            .as_str()
            .unwrap()
            .to_owned();
        assert_eq!(response.status, 400, "{message}");
        assert!(message.contains(says), "{name} {path}: {message}");
    }
    let body = json!({"lora_name": "x", "lora_path": "late"});
    assert_eq!(server.post("/v1/load_lora_adapter", &body).status, 401);
    assert_eq!(names(&server), ["tiny", "early", "late"]);

    let unload = |name: &str| admin("/v1/unload_lora_adapter", json!({"lora_name": name})).status;
    assert_eq!(
        (unload("late"), unload("late"), unload("tiny")),
        (200, 404, 404)
    );
    assert_eq!(names(&server), ["tiny", "early"]);
    let gone = server.post("/v1/completions", &json!({"model": "late", "prompt": "a"}));
    assert_eq!(
        (gone.status, gone.json()["error"]["code"].as_str().unwrap()),
        (404, "model_not_found")
    );
    assert_eq!(load("late", "late").status, 200);
    assert_eq!(answer(&server, "late"), late);

    // Alone, as `--model ADAPTER`, it answers the same.
    let alone = Server::start(&format!("--adapters {GOLDENS}/adapter_grad_attn_experts"));
    assert_eq!(answer(&alone, "tiny"), late);
}

/// An adapter with fewer ranks: in all its updates, or by a pattern in some.
fn thinned(to: &Path, pattern: Option<&str>) {
    copy(&format!("{GOLDENS}/adapter_grad_attn"), to);
    let file = to.join("adapter_model.safetensors");
    let tensors = candle_core::safetensors::load(&file, &candle_core::Device::Cpu).unwrap();
    let thin = tensors.into_iter().map(|(name, tensor)| {
        let is_meant = pattern.is_none_or(|pattern| name.contains(pattern));
        let side = usize::from(name.contains("lora_B"));
        let thin = match is_meant {
            true => tensor.narrow(side, 0, 2).unwrap().contiguous().unwrap(),
            false => tensor,
        };
        (name, thin)
    });
    let thin: std::collections::HashMap<_, _> = thin.collect();
    candle_core::safetensors::save(&thin, &file).unwrap();
    let config = to.join("adapter_config.json");
    let mut json: Value = serde_json::from_str(&fs::read_to_string(&config).unwrap()).unwrap();
    match pattern {
        None => json["r"] = json!(2),
        Some(pattern) => json["rank_pattern"] = json!({pattern: 2}),
    }
    fs::write(&config, json.to_string()).unwrap();
}

/// Adapters of ranks 4 and 2, and of both, answer in one batch what each answers alone.
#[test]
fn ranks_differ_from_adapter_to_adapter_in_a_batch() {
    let home = super::common::folder("deploy-ranks");
    let [thin, mixed] = ["thin", "mixed"].map(|name| home.join(name));
    thinned(&thin, None);
    thinned(&mixed, Some("v_proj"));
    let server = Server::start(&format!(
        "--adapters whole={GOLDENS}/adapter_grad_attn thin={} mixed={}",
        thin.display(),
        mixed.display()
    ));
    let names = ["tiny", "whole", "thin", "mixed"];
    let alone = names.map(|name| answer(&server, name));
    for (at, one) in alone.iter().enumerate() {
        assert!(!alone[..at].contains(one), "{}: {one}", names[at]);
    }
    for _ in 0..3 {
        let together = std::thread::scope(|scope| {
            let server = &server;
            let asked = names.map(|name| scope.spawn(move || answer(server, name)));
            asked.map(|one| one.join().unwrap())
        });
        assert_eq!(together, alone);
    }
}

#[test]
fn an_adapter_that_does_not_fit_is_refused_before_anything_is_served() {
    let dir = super::common::folder("deploy-misfit").join("misfit");
    copy(&format!("{GOLDENS}/adapter_grad_attn"), &dir);
    let config = dir.join("adapter_config.json");
    let text = fs::read_to_string(&config)
        .unwrap()
        .replace("q_proj", "w_pack");
    fs::write(&config, text).unwrap();
    let line = format!(
        "deploy --model {GOLDENS}/model_bf16 --port 0 --adapters bad={}",
        dir.display()
    );
    super::common::fails(&line, 1, &["bad", "layers.0.self_attn.q_proj"]);
}
