//! `apus watch DIR [--host HOST] [--port PORT]`

use crate::{Ended, Failure};
use apus_base::signals;
use apus_board::watch::{PORT, Server};
use apus_sdk::{errln, outln};
use clap::{Arg, ArgMatches, Command, value_parser};
use std::path::PathBuf;

/// What clap needs to know about it.
pub fn command() -> Command {
    Command::new("watch")
        .about("Shows the runs below a folder on a local page, while they go on")
        .arg(
            Arg::new("dir")
                .value_name("DIR")
                .default_value("output")
                .value_parser(value_parser!(PathBuf))
                .help("The folder; a run, or anything that runs lie below"),
        )
        .arg(
            Arg::new("host")
                .long("host")
                .value_name("HOST")
                .default_value("127.0.0.1")
                .help("The address to listen at; 0.0.0.0 lets others on the network read the runs"),
        )
        .arg(
            Arg::new("port")
                .long("port")
                .value_name("PORT")
                .value_parser(value_parser!(u16))
                .help(format!(
                    "The port to listen at [default: {PORT}, or any that is free]"
                )),
        )
}

/// Runs the command, until Ctrl-C ends the process.
pub fn run(matches: &ArgMatches) -> Result<Ended, Failure> {
    let (Some(dir), Some(host)) = (
        matches.get_one::<PathBuf>("dir"),
        matches.get_one::<String>("host"),
    ) else {
        return Ok(Ended::Done);
    };
    let port = matches.get_one::<u16>("port").copied();
    let mut server = Server::bind(dir, host, port).map_err(Failure::Run)?;
    let address = server.address();
    let runs = match server.runs() {
        0 => "no runs yet".to_owned(),
        1 => "1 run".to_owned(),
        count => format!("{count} runs"),
    };
    outln!("{}: {runs}", dir.display());
    outln!("http://{address}   (Ctrl-C ends it)");
    if !address.ip().is_loopback() {
        errln!("note: whoever can reach {address} can read these runs");
    } else if std::env::var_os("SSH_CONNECTION").is_some() {
        let port = address.port();
        outln!(
            "from your own machine: ssh -L {port}:127.0.0.1:{port} THIS_MACHINE, then open the same address"
        );
    }
    // Nothing has to be saved; and a shell may have told a process in the background not to listen to Ctrl-C.
    signals::on_signal(|| std::process::exit(130)).map_err(Failure::Run)?;
    server.serve().map_err(Failure::Run)?;
    Ok(Ended::Done)
}
