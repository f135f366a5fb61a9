//! How this process finds the other ranks of its run.

use super::Ranks;
use crate::train::screen;
use anyhow::{Result, bail};
use apus_components::config::SftConfig;
use apus_model::device::SideStream;
use apus_sdk::errln;
use apus_world::Limits;
use apus_world::control::{Failure, OnFailure, exit_at_once};
use apus_world::place::{Children, Launcher, Place, Role, role};
use apus_world::rendezvous::{Hello, Met, meet};
use apus_world::{Collectives, Control};
use candle_core::Device;
use std::cell::{Cell, OnceCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How long the ranks of a run may take to find each other: `ddp_timeout`, but within these bounds.
const PATIENCE: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(600)];

/// How long a rank may give no sign of life.
const SILENCE: Duration = Duration::from_secs(20);

/// This process among the ranks of its run; nothing where it is the whole run. One that `NPROC_PER_NODE=1` makes alone is a
/// group of one where the base is to be spread over ranks, so that what several do can be measured with one.
///
/// # Errors
/// Variables of the environment that say only a part, or ranks that the launcher of the command line should have started.
pub fn place(shard_base: bool) -> Result<Option<Place>> {
    match role()? {
        Role::Alone if shard_base && std::env::var_os("NPROC_PER_NODE").is_some() => {
            Ok(Some(Place {
                rank: 0,
                size: 1,
                local_rank: 0,
                master: Some(("127.0.0.1".to_owned(), 0)),
                launcher: Launcher::Apus,
            }))
        }
        Role::Alone => Ok(None),
        Role::Rank(place) => Ok(Some(place)),
        Role::Launcher(Children { local, .. }) => {
            bail!("NPROC_PER_NODE is {local}: ranks are started by the command line of apus")
        }
    }
}

/// The rank of this process and how many the run has, whether or not they are started.
///
/// # Errors
/// As [`place`].
pub fn rank_and_size() -> Result<(usize, usize)> {
    Ok(match role()? {
        Role::Alone => (0, 1),
        Role::Rank(place) => (place.rank, place.size),
        Role::Launcher(children) => (children.first, children.size),
    })
}

/// Opens the device of a rank: of the cards of its host the one by its number there.
///
/// # Errors
/// A single card for several ranks, or a card that cannot be used.
pub fn device(config: &SftConfig, place: &Place) -> Result<Device> {
    match config.device.as_str() {
        "auto" if !cfg!(feature = "cuda") => Ok(Device::Cpu),
        "auto" | "cuda" => apus_model::device::open(&format!("cuda:{}", place.local_rank)),
        "cpu" => Ok(Device::Cpu),
        one => bail!(
            "device is {one:?}, one card for {} ranks; give auto, cuda or cpu, and choose cards by CUDA_VISIBLE_DEVICES",
            place.size
        ),
    }
}

/// Finds the other ranks. They wait for each other as long as `ddp_timeout` says.
///
/// # Errors
/// They do not come or do not fit together, or nothing is there that carries their tensors.
pub fn join(config: &SftConfig, place: &Place, device: &Device) -> Result<Ranks> {
    let arrival = Duration::from_secs(config.ddp_timeout);
    let hello = Hello {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        rank: place.rank,
        size: place.size,
        host: sysinfo::System::host_name().unwrap_or_default(),
        pid: std::process::id(),
        card: apus_model::device::bus_address(device),
    };
    match device {
        Device::Cpu => of_processes(place, hello, arrival),
        _ => of_cards(place, hello, device, arrival),
    }
}

/// CPU processes talk through MPI, which also tells where rank 0 listens if the launcher does not.
#[cfg(feature = "mpi")]
fn of_processes(place: &Place, hello: Hello, arrival: Duration) -> Result<Ranks> {
    use apus_world::mpi::Mpi;
    use apus_world::rendezvous::{arrive, welcome};
    use std::net::TcpListener;

    let mpi = Mpi::start()?;
    if mpi.place() != (place.rank, place.size) {
        bail!(
            "{} says rank {} of {}, and MPI says rank {} of {}: ranks on the CPU are started by NPROC_PER_NODE or mpirun",
            place.launcher,
            place.rank,
            place.size,
            mpi.place().0,
            mpi.place().1
        );
    }
    let patience = arrival.clamp(PATIENCE[0], PATIENCE[1]);
    let met = match (&place.master, place.rank) {
        (Some(_), _) => meet(place, hello, patience)?,
        (None, 0) => {
            let listener = TcpListener::bind(("0.0.0.0", 0))?;
            let address = format!("{}:{}", hello.host, listener.local_addr()?.port());
            mpi.broadcast_bytes(address.into_bytes());
            welcome(listener, hello, patience)?
        }
        (None, _) => {
            let address = String::from_utf8(mpi.broadcast_bytes(Vec::new()))?;
            let Some((host, port)) = address.rsplit_once(':') else {
                bail!("rank 0 listens at {address:?}, expected a host and a port")
            };
            arrive(host, port.parse()?, hello, patience)?
        }
    };
    let control = control(place, met, arrival)?;
    Ok(Ranks {
        control: Rc::new(control),
        collectives: Some(Rc::new(Box::new(mpi))),
        stream: Rc::new(SideStream::new(&Device::Cpu)?),
        buckets: OnceCell::new(),
        busy: Cell::new(false),
        told: Cell::default(),
        left_over: Cell::default(),
        finished: false,
    })
}

#[cfg(not(feature = "mpi"))]
fn of_processes(place: &Place, _hello: Hello, _arrival: Duration) -> Result<Ranks> {
    bail!(
        "{} ranks on the CPU talk through MPI, and this apus was built without it: build it with --features mpi (it needs \
         libopenmpi-dev, openmpi-bin and libclang-dev), or with --features cuda for cards",
        place.size
    )
}

/// Cards talk through NCCL.
fn of_cards(place: &Place, hello: Hello, device: &Device, arrival: Duration) -> Result<Ranks> {
    let patience = arrival.clamp(PATIENCE[0], PATIENCE[1]);
    let control = control(place, meet(place, hello, patience)?, arrival)?;
    let stream = SideStream::new(device)?;
    let join = |id| control.broadcast(id);
    let cards = apus_world::nccl::Cards::join(place.rank, place.size, join);
    let collectives: Box<dyn Collectives> = match cards {
        Ok(cards) => Box::new(cards),
        Err(error) => {
            control.fail(&format!("{error:#}"));
            return Err(error);
        }
    };
    Ok(Ranks {
        control: Rc::new(control),
        collectives: Some(Rc::new(collectives)),
        stream: Rc::new(stream),
        buckets: OnceCell::new(),
        busy: Cell::new(false),
        told: Cell::default(),
        left_over: Cell::default(),
        finished: false,
    })
}

fn control(place: &Place, met: Met, arrival: Duration) -> Result<Control> {
    let rank = place.rank;
    let on_failure: OnFailure = Arc::new(move |failure: &Failure| {
        screen::restore();
        let text = match &failure.saved {
            Some(path) => format!(
                "error: {0}. The newest checkpoint is {path}: go on with --resume_from_checkpoint {path}",
                failure.text
            ),
            None => format!("error: {}", failure.text),
        };
        // What rank 0 prints is at the terminal, where the launcher says it.
        let told_launcher = !failure.told && tell_launcher(&text);
        if rank > 0 || !told_launcher {
            errln!("{text}");
        }
        // After a signal that all ranks got, this is how the run was to end.
        exit_at_once(match apus_base::signals::asked() {
            true => 130,
            false => 1,
        });
    });
    let limits = Limits {
        silence: SILENCE,
        arrival,
    };
    let control = Control::new(met, place.rank, limits, on_failure)?;
    #[cfg(unix)]
    if matches!(place.launcher, Launcher::Apus | Launcher::Mpirun) {
        control.watch_parent(std::os::unix::process::parent_id());
    }
    Ok(control)
}

#[cfg(unix)]
fn tell_launcher(text: &str) -> bool {
    apus_world::launch::last_words(text)
}

#[cfg(not(unix))]
fn tell_launcher(_: &str) -> bool {
    false
}
