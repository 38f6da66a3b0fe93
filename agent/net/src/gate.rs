//! Whether applications may write: until the agent ends, when what they wrote is sent first.

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

#[derive(Clone, Default)]
pub struct Gate {
    inside: TaskTracker,
    closed: CancellationToken,
}

impl Gate {
    /// Held while a script that writes runs; `None` when no more may.
    pub(crate) fn enter(&self) -> Option<TaskTrackerToken> {
        // Taken before the look: whoever closes the gate waits for it.
        let token = self.inside.token();
        (!self.inside.is_closed()).then_some(token)
    }

    /// Lets nobody in any more, and waits until everybody is out.
    pub async fn close(&self) {
        self.inside.close();
        self.closed.cancel();
        self.inside.wait().await;
    }

    pub(crate) async fn closed(&self) {
        self.closed.cancelled().await;
    }
}
