//! From flags to the settings of a server, with what is refused before anything is loaded.

use super::http::connections::ConnectionLimits;
use super::http::keys::{Key, Keys};
use super::server::ServeOptions;
use crate::generate::EngineOptions;
use anyhow::{Context, Result, bail, ensure};
use apus_components::config::{DeployConfig, InferConfig, values};
use apus_components::secrets::forget_secrets;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The variable with the key of clients.
const API_KEY: &str = "APUS_API_KEY";
/// The variable with the key of the administrator.
const ADMIN_API_KEY: &str = "APUS_ADMIN_API_KEY";

/// The keys of a configuration, or of the environment.
///
/// # Errors
/// A key that is empty, or one for both.
pub fn keys(config: &DeployConfig) -> Result<Keys> {
    let given = |flag: &Option<String>, variable: &str| {
        flag.clone().or_else(|| std::env::var(variable).ok())
    };
    let api = given(&config.api_key, API_KEY);
    let admin = given(&config.admin_api_key, ADMIN_API_KEY);
    for (name, key) in [("api_key", &api), ("admin_api_key", &admin)] {
        let is_header = |key: &String| !key.is_empty() && key.bytes().all(|b| b.is_ascii_graphic());
        ensure!(
            key.as_ref().is_none_or(is_header),
            "{name}: the key is empty or has characters that a header cannot have; expected letters, digits and signs"
        );
    }
    ensure!(
        api.is_none() || api != admin,
        "api_key and admin_api_key are the same: every client could add adapters; give another one"
    );
    ensure!(
        config.adapters_dir.is_none() || admin.is_some(),
        "adapters_dir is given, and adapters are added with an admin key: give --admin_api_key, or {ADMIN_API_KEY}"
    );
    Ok(Keys {
        api: api.as_deref().map(Key::new),
        admin: admin.as_deref().map(Key::new),
    })
}

/// Listens. An address that others reach needs a key.
///
/// # Errors
/// No such address, one without a key, or one that cannot be listened at.
pub fn listen(config: &DeployConfig, keys: &Keys) -> Result<TcpListener> {
    let name = config.host.trim_start_matches('[').trim_end_matches(']');
    let place = format!("{}:{}", config.host, config.port);
    let addresses: Vec<SocketAddr> = (name, config.port)
        .to_socket_addrs()
        .with_context(|| format!("host {}: no such address", config.host))?
        .collect();
    let is_open = |address: &SocketAddr| !is_here(address.ip());
    if keys.api.is_none() && addresses.iter().any(is_open) {
        bail!(
            "host is {}, which others reach, and there is no key: anybody could use the model. Give --api_key, or {API_KEY}",
            config.host
        );
    }
    let listener = TcpListener::bind(addresses.as_slice());
    let listener = listener.with_context(|| {
        format!("{place} cannot be listened at; --port gives another one, 0 any that is free")
    })?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Whether an address is this machine's own, which others do not reach.
pub fn is_here(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// What requests meet.
///
/// # Errors
/// A folder for adapters that is none.
pub fn options(config: &DeployConfig, only_here: bool, dates_itself: bool) -> Result<ServeOptions> {
    let adapters_dir = config.adapters_dir.as_deref().map(|dir| {
        let found = Path::new(dir).canonicalize();
        let found = found.with_context(|| format!("adapters_dir {dir}: no such folder"))?;
        ensure!(found.is_dir(), "adapters_dir {dir} is no folder");
        Ok(found)
    });
    let mut flags = values(config);
    forget_secrets(&mut flags);
    Ok(ServeOptions {
        flags,
        max_new_tokens: config.max_new_tokens,
        max_prompt: config.max_length,
        max_logprobs: config.max_logprobs,
        max_body_bytes: config.max_body_bytes,
        request_timeout: seconds(config.request_timeout),
        client_timeout: seconds(config.client_timeout),
        verbose: config.verbose,
        only_here,
        dates_itself,
        adapters_dir: adapters_dir.transpose()?,
    })
}

/// How many connections there may be, and how slow.
pub fn connections(config: &DeployConfig) -> ConnectionLimits {
    ConnectionLimits {
        most: config.max_connections,
        client: seconds(config.client_timeout),
        drain: seconds(config.drain_timeout),
    }
}

/// The settings of the engine.
pub fn engine(config: &DeployConfig) -> EngineOptions {
    EngineOptions {
        max_batch_size: config.max_batch_size,
        cache_tokens: config.cache_tokens,
        max_length: None,
        prefill_chunk: config.prefill_chunk,
        prefix_cache: config.prefix_cache,
        deterministic: config.deterministic,
    }
}

/// A time, of which a year is as good as any longer one.
fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.clamp(0.0, 3e7))
}

/// Adapters with their names.
pub type NamedAdapters = Vec<(String, PathBuf)>;

/// Adapters by name, and those without one, which are part of the model.
pub fn adapters(config: &DeployConfig) -> Result<(NamedAdapters, Vec<String>)> {
    let (mut named, mut own) = (NamedAdapters::new(), Vec::new());
    for word in &config.adapters {
        match word.split_once('=') {
            Some((name, dir)) if !Path::new(word).exists() => {
                ensure!(!name.is_empty(), "adapters: {word} has no name before `=`");
                ensure!(
                    named.iter().all(|(known, _)| known != name),
                    "adapters: two are called {name}"
                );
                named.push((name.to_owned(), PathBuf::from(dir)));
            }
            _ => own.push(word.clone()),
        }
    }
    ensure!(
        own.len() < 2,
        "adapters: {} have no name, and a model has one of its own at most: write NAME={}",
        own.join(" and "),
        own.last().map_or("", String::as_str)
    );
    Ok((named, own))
}

/// What `apus infer` would be told to load the same model.
pub fn as_infer(config: &DeployConfig, own: Vec<String>) -> InferConfig {
    InferConfig {
        model: config.model.clone(),
        use_hf: config.use_hf,
        adapters: own,
        tokenizer: config.tokenizer.clone(),
        torch_dtype: config.torch_dtype,
        experts_dtype: config.experts_dtype,
        device: config.device.clone(),
        plugins: config.plugins.clone(),
        system: config.system.clone(),
        reasoning_effort: config.reasoning_effort.clone(),
        model_identity: config.model_identity.clone(),
        current_date: config.current_date.clone(),
        template_backend: config.template_backend.clone(),
        think_to_analysis: config.think_to_analysis,
        keep_thinking: config.keep_thinking,
        temperature: config.temperature,
        top_p: config.top_p,
        top_k: Some(config.top_k.unwrap_or(-1)),
        repetition_penalty: config.repetition_penalty,
        seed: config.seed,
        deterministic: config.deterministic,
        ..InferConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(host: &str, key: Option<&str>) -> DeployConfig {
        DeployConfig {
            host: host.to_owned(),
            port: 0,
            api_key: key.map(str::to_owned),
            ..DeployConfig::default()
        }
    }

    #[test]
    fn an_address_that_others_reach_needs_a_key() {
        let listens = |host: &str, key| {
            let config = config(host, key);
            listen(&config, &keys(&config)?).map(drop)
        };
        for host in ["127.0.0.1", "localhost", "127.0.0.2"] {
            listens(host, None).unwrap();
        }
        for host in ["0.0.0.0", "::", "[::]"] {
            let error = format!("{:#}", listens(host, None).unwrap_err());
            assert!(
                error.contains("anybody could use the model"),
                "{host}: {error}"
            );
        }
        listens("0.0.0.0", Some("key")).unwrap();
        assert!(listens("no such host", None).is_err());
    }

    #[test]
    fn keys_that_are_none() {
        let error = |change: &dyn Fn(&mut DeployConfig)| {
            let mut config = config("127.0.0.1", Some("a"));
            change(&mut config);
            keys(&config).unwrap_err().to_string()
        };
        assert!(error(&|c| c.api_key = Some(String::new())).contains("api_key"));
        assert!(error(&|c| c.admin_api_key = Some("a b".to_owned())).contains("admin_api_key"));
        assert!(error(&|c| c.admin_api_key = Some("a".to_owned())).contains("are the same"));
        assert!(error(&|c| c.adapters_dir = Some("x".to_owned())).contains("--admin_api_key"));
    }

    #[test]
    fn adapters_have_names_but_for_one() {
        let read = |words: &[&str]| {
            let config = DeployConfig {
                adapters: words.iter().map(|&word| word.to_owned()).collect(),
                ..DeployConfig::default()
            };
            adapters(&config).map_err(|error| error.to_string())
        };
        let (named, own) = read(&["a=x", "b=y=z", "w"]).unwrap();
        assert_eq!(
            named,
            [("a".to_owned(), "x".into()), ("b".to_owned(), "y=z".into())]
        );
        assert_eq!(own, ["w"]);
        assert!(
            read(&["a=x", "a=y"])
                .unwrap_err()
                .contains("two are called a")
        );
        assert!(read(&["x", "y"]).unwrap_err().contains("write NAME=y"));
        assert!(read(&["=x"]).unwrap_err().contains("has no name"));
    }
}
