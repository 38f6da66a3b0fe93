//! The example of the airports on two API servers: an operator and an agent on each, and nothing declared yet.

use crate::cluster::{Agent, Cluster};
use crate::dirs::root;
use anyhow::{Context, Result, anyhow};
use std::fs;
use std::thread;

pub const NAMESPACE: &str = "flights";
/// What the example's manifests say; tests have ports of their own.
const EAST_PEERS: &str = "127.0.0.1:9001";
const WEST_PEERS: &str = "127.0.0.1:9101";

pub struct Flights {
    pub east_agent: Agent,
    pub west_agent: Agent,
    pub east: Cluster,
    pub west: Cluster,
}

impl Flights {
    pub fn start() -> Result<Self> {
        let (east, west) = thread::scope(|s| {
            let east = s.spawn(|| Cluster::start("east", "east.example"));
            let west = Cluster::start("west", "west.example");
            (east.join().map_err(|_| anyhow!("starting the east panicked")), west)
        });
        let (east, west) = (east??, west?);
        let ontology = root().join("examples/airports/flights.ontology");
        for c in [&east, &west] {
            c.api.create_namespace(NAMESPACE)?;
        }
        let east_agent = east.start_agent(NAMESPACE, "us-east", &ontology)?;
        let west_agent = west.start_agent(NAMESPACE, "us-west", &ontology)?;
        Ok(Flights { east_agent, west_agent, east, west })
    }

    /// What the east gives the west to commit.
    pub fn trust_in_east(&self) -> Result<String> {
        self.east.export_trust(NAMESPACE, &self.east_agent)
    }

    pub fn trust_in_west(&self) -> Result<String> {
        self.west.export_trust(NAMESPACE, &self.west_agent)
    }

    /// A file of the example as it is committed, but for the ports.
    pub fn manifest(&self, file: &str) -> Result<String> {
        let path = root().join("examples/airports").join(file);
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let ours = |port: u16| format!("127.0.0.1:{port}");
        let (east, west) = (ours(self.east_agent.federation), ours(self.west_agent.federation));
        Ok(text.replace(EAST_PEERS, &east).replace(WEST_PEERS, &west))
    }
}
