//! Faults of a peer. Each has a kernel of its own in the west and a Sync of its own in the east, so that all can be there at
//! once: a skewed clock takes a minute.

use crate::SOON;
use crate::world::{NAMESPACE, World};
use anyhow::Result;
use mew_tests::kstatus::condition;
use mew_tests::wait::until;
use serde_json::{Value, json};

/// Twice as far ahead as is believed.
const TWO_MINUTES_AHEAD: (&str, &str) = ("MEW_CLOCK_OFFSET", "120s");
/// The shortest life that an operator gives.
const SHORT_LIFE: [&str; 2] = ["--certificate-lifetime", "6s"];
/// More than can be left in the last page of a file on a full disk.
const LONG_NAME: usize = 16 << 10;

fn spawn_airport(w: &World, iata: &str, name: &str, country: &str) -> Result<()> {
    let text = "SPAWN Airport {iata = $iata, name = $name, country = $country, latitude = 1.5, longitude = 2.5}";
    w.east_agent.execute(text, json!({"iata": iata, "name": name, "country": country})).map(|_| ())
}

fn airport(iata: &str) -> String {
    format!(r#"MATCH a: Airport WHERE a.iata = "{iata}" RETURN a.iata"#)
}

// --------------------------------------------------------------------- clock

fn write_memo(w: &mut World, text: &str) -> Result<()> {
    w.peer("us-ahead")?.execute("SPAWN Memo {text = $text}", json!({"text": text}))?;
    w.owe("ahead", None, &format!(r#"MATCH m: Memo WHERE m.text = "{text}" RETURN m.text"#));
    Ok(())
}

/// Only what was written shows which time it is there.
pub fn run_ahead_of_time(w: &mut World) -> Result<()> {
    w.start_peer("us-ahead", |a| a.start_with_env(&[TWO_MINUTES_AHEAD]))?;
    w.make_pull("ahead", "us-ahead", "m: Memo")?;
    w.becomes_ready("sync", "ahead")?;
    write_memo(w, "written ahead of time")
}

/// What was written ahead of time is believed a minute after it was written; what is written now comes behind it.
pub fn set_the_clock(w: &mut World) -> Result<()> {
    let ahead = w.peer("us-ahead")?;
    ahead.stop();
    ahead.start()?;
    write_memo(w, "written in time")
}

// ---------------------------------------------------------------------- disk

pub fn fill_the_disk(w: &mut World) -> Result<()> {
    w.start_peer("us-full", |a| {
        a.use_small_disk();
        a.start()
    })?;
    w.make_sync("full", "us-full", r#"a: Airport WHERE a.country = "Canada""#)?;
    w.becomes_ready("sync", "full")?;
    w.peer("us-full")?.small_disk()?.fill()?;
    spawn_airport(w, "YVR", &"Y".repeat(LONG_NAME), "Canada")?;
    w.owe("full", Some("us-full"), &airport("YVR"));
    Ok(())
}

/// Nothing is restarted.
pub fn make_room(w: &mut World) -> Result<()> {
    w.peer("us-full")?.small_disk()?.make_room()?;
    spawn_airport(w, "YYZ", "after there is room", "Canada")?;
    w.owe("full", Some("us-full"), &airport("YYZ"));
    Ok(())
}

// --------------------------------------------------------------- certificate

/// The peer gets a certificate that is short-lived, and is cut off from its operator before it is due for the next one.
pub fn let_the_certificate_expire(w: &mut World) -> Result<()> {
    w.west.operators[0].kill();
    w.west.operators[0].start_with(&SHORT_LIFE)?;
    w.start_peer("us-expired", |a| a.start())?;
    w.make_sync("expired", "us-expired", r#"a: Airport WHERE a.country = "Mexico""#)?;
    w.becomes_ready("sync", "expired")?;
    w.west.operators[0].kill();
    // Connections end with the certificates that they were made with. Only when a new one is refused is it over.
    until("the certificate has expired", SOON, || {
        let r = w.east.api.get_json("remote", NAMESPACE, "us-expired")?;
        Ok(condition(&r, "Ready").is_some_and(is_refused).then_some(()))
    })?;
    spawn_airport(w, "MEX", "while nobody is let in", "Mexico")?;
    w.owe("expired", Some("us-expired"), &airport("MEX"));
    Ok(())
}

fn is_refused(ready: &Value) -> bool {
    let message = ready["message"].as_str().unwrap_or("");
    ready["reason"] == "CertificateExpired" && message.contains("has expired or is not valid yet")
}

/// Its agent finds the operator by itself, and gets a certificate for three days.
pub fn start_operator_of_the_west(w: &mut World) -> Result<()> {
    w.west.operators[0].start()
}
