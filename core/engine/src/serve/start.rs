//! Starts the server and ends it.

use super::constrain::Constraints;
use super::http::connections;
use super::metrics::Metrics;
use super::models::Models;
use super::server::Server;
use super::target::Target;
use super::worker::{self, WorkerSettings};
use super::{routes, settings};
use crate::generate::adapter_folders;
use crate::setup::{Chosen, MadeLater, setup_of};
use anyhow::{Context, Result, ensure};
use apus_base::lines::info;
use apus_base::signals;
use apus_components::config::{DeployConfig, Resolved, load_plugins, values};
use apus_components::plugin;
use apus_data::hub;
use apus_sdk::{errln, outln};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::sleep;

/// Threads that handle requests; the engine computes on others.
const THREADS: usize = 2;

/// Runs `apus deploy`, until a signal ends it.
///
/// # Errors
/// Flags that cannot be meant, a model or an adapter that cannot be loaded, an address that cannot be listened at, an engine that
/// cannot go on.
pub fn deploy(resolved: &Resolved<DeployConfig>) -> Result<()> {
    let config = &resolved.config;
    let keys = settings::keys(config)?;
    let (named, own) = settings::adapters(config)?;
    let infer = settings::as_infer(config, own);
    load_plugins(&config.plugins)?;
    hub::prefer(config.use_hf);
    let mut later = MadeLater::default();
    later.add_adapters(named.iter().map(|(_, dir)| dir.as_path()))?;
    later.add_adapters(adapter_folders(&infer)?.iter().map(PathBuf::as_path))?;
    let mut chosen = Chosen::default();
    later.add_to(&mut chosen);
    chosen.check(setup_of(values(config)), resolved)?;
    // Before the model is loaded, which may take minutes.
    let listener = settings::listen(config, &keys)?;
    let address = listener.local_addr()?;
    let target = Target::find(infer)?;
    for line in target
        .adapter()
        .into_iter()
        .chain(named.iter().map(|(_, dir)| dir))
        .flat_map(|dir| plugin::compare(dir))
    {
        errln!("note: {line}");
    }
    let encoder = target.encoder()?;
    let dates_itself = !target.has_date();
    let options = settings::options(config, settings::is_here(address.ip()), dates_itself)?;
    let defaults = target.defaults()?;
    let name = config
        .served_model_name
        .clone()
        .unwrap_or_else(|| target.name());
    let root = target.root();
    ensure!(
        named.iter().all(|(adapter, _)| *adapter != name),
        "adapters: one is called {name}, as the model; name it otherwise, or the model by --served_model_name"
    );

    let (end, ending) = watch::channel(false);
    let at_signal = end.clone();
    let mut signals_so_far = 0;
    signals::on_signal(move || {
        signals_so_far += 1;
        if signals_so_far > 1 {
            std::process::exit(130);
        }
        at_signal.send_replace(true);
    })?;
    let metrics = Arc::new(Metrics::default());
    let worker_settings = WorkerSettings {
        engine: settings::engine(config),
        adapters: named.clone(),
        queue: config.max_queue,
    };
    let constraints = Constraints::new(Arc::clone(encoder.tokenizer()), encoder.dialect())?;
    let tokenizer = Arc::clone(encoder.tokenizer());
    let (worker, thread) = worker::start(
        move || target.load(),
        tokenizer,
        worker_settings,
        Arc::clone(&metrics),
        end.clone(),
    )?;
    let models = Models::new(
        name,
        root,
        config.owned_by.clone(),
        worker.loaded.max_length,
        named,
    );
    let server = Arc::new(Server {
        options,
        defaults,
        encoder,
        constraints,
        worker,
        models,
        keys,
        metrics,
        ending: ending.clone(),
    });
    outln!("models: {}", server.models.names().join(", "));
    outln!("http://{address}/v1   (Ctrl-C ends it)");
    if !settings::is_here(address.ip()) {
        errln!(
            "note: whoever can reach {address} and has the key can use these models; keys travel unencrypted without a proxy that speaks HTTPS"
        );
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("server")
        .enable_all()
        .build()?;
    let served = runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        if let Ok(seconds) = u64::try_from(config.log_interval)
            && seconds > 0
        {
            tokio::spawn(report(Arc::clone(&server), Duration::from_secs(seconds)));
        }
        let mut ends = ending.clone();
        tokio::spawn(async move {
            if ends.wait_for(|ending| *ending).await.is_ok() {
                info!("ending: running answers are completed, new requests refused; once more to leave at once");
            }
        });
        connections::serve(listener, routes::routes(server), settings::connections(config), ending).await;
        Ok::<(), std::io::Error>(())
    });
    // Handlers that are still there lose their answers.
    runtime.shutdown_timeout(Duration::from_secs(1));
    served.context("requests cannot be served")?;
    thread.end()
}

/// Says what the server does, from time to time, while it does anything.
async fn report(server: Arc<Server>, every: Duration) {
    let mut before = (Instant::now(), server.worker.stats());
    loop {
        sleep(every).await;
        let stats = server.worker.stats();
        let seconds = before.0.elapsed().as_secs_f64();
        let speed = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
        let prompt = speed(stats.prompt_tokens, before.1.prompt_tokens);
        let generated = speed(stats.generated_tokens, before.1.generated_tokens);
        if prompt + generated > 0.0 || stats.running + stats.waiting > 0 {
            info!(
                "{} answers running, {} waiting; {prompt:.1} prompt tokens/s, {generated:.1} generated tokens/s; {} of {} pages used",
                stats.running, stats.waiting, stats.pages_used, stats.pages
            );
        }
        before = (Instant::now(), stats);
    }
}
