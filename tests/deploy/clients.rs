//! The unchanged official clients of Python and JavaScript call every endpoint (`tests/clients`). Without them the tests say that they
//! are skipped: `scripts/install-test-clients` installs them.

use super::answers::without;
use super::server::{GOLDENS, Server};
use std::path::PathBuf;
use std::process::Command;

/// The folder with the clients.
fn clients() -> PathBuf {
    let given = std::env::var_os("APUS_TEST_CLIENTS").map(PathBuf::from);
    given.unwrap_or_else(|| {
        PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target/test-clients"))
    })
}

fn runs(mut command: Command, name: &str) {
    let root = super::common::folder(&format!("deploy-client-{name}"));
    std::fs::create_dir_all(root.join("late")).unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(
            format!("{GOLDENS}/adapter_grad_attn/{file}"),
            root.join("late").join(file),
        )
        .unwrap();
    }
    let server = Server::start(&format!(
        "--api_key client-key --admin_api_key boss-key --adapters cat={GOLDENS}/adapter_grad_attn_experts --adapters_dir {}",
        root.display()
    ));
    let output = command
        .env("BASE_URL", format!("http://{}/v1", server.address))
        .env("API_KEY", "client-key")
        .env("ADMIN_KEY", "boss-key")
        .env("NO_REASONING", without(&["analysis"]).to_string())
        .env_remove("http_proxy")
        .env_remove("HTTP_PROXY")
        .output()
        .expect("the client starts");
    let said = super::common::text(&output);
    assert!(
        output.status.success() && said.contains("all checks passed"),
        "{said}\n{}",
        server.said()
    );
    server.wait_for_idle("client-key");
}

#[test]
fn the_official_python_client() {
    let python = clients().join("venv/bin/python");
    if !python.exists() {
        return eprintln!(
            "skipped: no {}; scripts/install-test-clients installs it",
            python.display()
        );
    }
    let mut command = Command::new(python);
    command.arg(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/clients/openai_client.py"
    ));
    runs(command, "python");
}

#[test]
fn the_official_javascript_client() {
    let modules = clients().join("node_modules/openai");
    if !modules.exists() || Command::new("node").arg("--version").output().is_err() {
        return eprintln!(
            "skipped: no {} or no node; scripts/install-test-clients installs it",
            modules.display()
        );
    }
    let mut command = Command::new("node");
    command
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/clients/openai_client.mjs"
        ))
        .env("CLIENTS", clients());
    runs(command, "javascript");
}
