//! What a hub says of its peers when its agent ends.

use mew_contract::samples::{HERE, remote_item, sync_item};
use mew_kernel::{Kernel, Params};
use mew_lang::parse_ontology;
use mew_net::{Hub, HubConfig};
use mew_store::{MemDisk, Options, Store};
use std::sync::Arc;
use std::time::Duration;

/// Nobody is connected, so nobody is waited for; this is for a machine that is busy with something else.
const PATIENCE: Duration = Duration::from_secs(60);

/// What another agent, which is this kernel now, has sent since is not known here.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_standby_it_is_not_known_what_peers_have() {
    let o = parse_ontology("node Task { name: String? }").expect("the ontology is right");
    let options = Options { kernel_id: HERE.into(), new_incarnation: "here-1".into(), segment_bytes: 1 << 20 };
    let (store, _) = Store::open(Arc::new(MemDisk::new()), Arc::new(o), options).expect("an empty store opens");
    let kernel = Arc::new(Kernel::new(store));
    let hub = Hub::new(kernel.clone(), HubConfig { agent_version: "test".into(), observer: None, clock_offset_ms: 0 });
    let configure = |remotes, syncs| tokio::task::block_in_place(|| hub.configure(remotes, syncs));

    configure(vec![remote_item(&["Task"])], Vec::new());
    assert!(hub.drain(PATIENCE).await.is_empty(), "there is no flow");
    for _ in 0..2 {
        tokio::task::block_in_place(|| hub.stand_by());
        tokio::task::block_in_place(|| hub.refresh());
        let left = hub.drain(PATIENCE).await;
        let text = left.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        assert_eq!((left.len(), left.iter().any(|o| o.waits)), (1, false), "{text}");
        for word in ["here/there", "is not known", "another agent is this kernel now"] {
            assert!(text.contains(word), "{word:?} is not in {text:?}");
        }
    }
    // It is this one again, and its link says what it knows.
    configure(vec![remote_item(&["Task"])], vec![sync_item()]);
    kernel.execute(1, r#"SPAWN Task {name = "t"}"#, &Params::new()).expect("a statement of this ontology");
    let flows: Vec<String> = hub.drain(PATIENCE).await.into_iter().map(|o| o.flow).collect();
    assert_eq!(flows, ["here/tasks"]);
    configure(Vec::new(), Vec::new());
    assert!(hub.drain(PATIENCE).await.is_empty(), "there is no Remote any more");
    hub.shutdown();
}
