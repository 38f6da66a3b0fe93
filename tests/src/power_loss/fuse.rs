//! One file by the protocol of /dev/fuse: what a loop device needs to stand on, and nothing else. The system caches no writes
//! for it, so each comes at once, and what the loop device is told to flush comes as an fsync.

use super::disk::Disk;
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};

/// The only file. Its size is the disk's.
pub const NAME: &str = "disk.img";

/// Of the protocol: the version that is spoken here. Newer systems follow.
const VERSION: [u32; 2] = [7, 31];
const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const FSYNC: u32 = 20;
const INIT: u32 = 26;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;
/// In the answer to INIT: writes may be larger than a page.
const BIG_WRITES: u32 = 1 << 5;
const ROOT: u64 = 1;
const FILE: u64 = 2;
const DIRECTORY_MODE: u32 = 0o040_700;
const FILE_MODE: u32 = 0o100_600;
const BLOCK: u32 = 4096;
/// Requests that the system sends ahead, and from how many on it slows down: the usual numbers.
const AHEAD: [u16; 2] = [16, 12];
/// Bytes of one write: as much as the system sends without being told to send more.
const MAX_WRITE: u32 = 128 << 10;
/// The headers of a write are smaller.
const HEADERS: usize = 4096;
/// The header of each request.
const HEADER: usize = 40;
/// In a write, its bytes come after this.
const BEFORE_BYTES: usize = 40;

/// How many writes and flushes still come until the power is gone. It goes with the last of them, which is not taken.
pub struct Power(AtomicU64);

impl Power {
    pub fn on() -> Self {
        Power(AtomicU64::new(u64::MAX))
    }

    /// It goes with the write or the flush that comes after so many, if not before.
    pub fn goes_after(&self, requests: u64) {
        self.0.fetch_min(requests.saturating_add(1), Ordering::SeqCst);
    }

    /// Whoever met a disk without power finds that it is gone.
    pub fn is_gone(&self) -> bool {
        self.0.load(Ordering::SeqCst) == 0
    }

    fn takes_one(&self) -> bool {
        matches!(self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)), Ok(2..))
    }
}

enum Answer {
    Data(Out),
    Refused(Errno),
    /// There is no answer to what was asked.
    Nothing,
    PowerIsGone,
}

/// Answers until the power goes or nothing is mounted any more. Without power it answers nothing, not even what it was asked:
/// once `kernel` is closed everywhere, the system lets all that waits fail, and all that comes.
pub fn serve(mut kernel: &File, disk: &mut Disk, power: &Power) -> io::Result<()> {
    let mut buffer = vec![0; MAX_WRITE as usize + HEADERS];
    loop {
        let n = match kernel.read(&mut buffer) {
            Ok(n) => n,
            Err(e) => match Errno::from_io_error(&e) {
                // Who asked was killed before it was read.
                Some(Errno::NOENT | Errno::INTR | Errno::AGAIN) => continue,
                Some(Errno::NODEV) => return Ok(()),
                _ => return Err(e),
            },
        };
        let request = &buffer[..n];
        let (error, data) = match answer(request, disk, power)? {
            Answer::Data(out) => (0, out.0),
            Answer::Refused(e) => (-e.raw_os_error(), Vec::new()),
            Answer::Nothing => continue,
            Answer::PowerIsGone => return Ok(()),
        };
        let mut reply = Vec::with_capacity(16 + data.len());
        reply.extend_from_slice(&(16 + data.len() as u32).to_ne_bytes());
        reply.extend_from_slice(&error.to_ne_bytes());
        reply.extend_from_slice(&bytes::<8>(request, 8)?);
        reply.extend_from_slice(&data);
        match kernel.write(&reply) {
            Ok(n) if n == reply.len() => {}
            Ok(n) => return Err(io::Error::new(ErrorKind::WriteZero, format!("{n} of {} bytes", reply.len()))),
            // Who asked was killed meanwhile.
            Err(e) if Errno::from_io_error(&e) == Some(Errno::NOENT) => {}
            Err(e) => return Err(e),
        }
    }
}

fn answer(request: &[u8], disk: &mut Disk, power: &Power) -> io::Result<Answer> {
    let (opcode, node) = (u32_at(request, 4)?, u64_at(request, 16)?);
    let body = request.get(HEADER..).unwrap_or_default();
    Ok(match opcode {
        INIT => {
            let read_ahead = u32_at(body, 8)?;
            let out = Out::default().u32s(&VERSION).u32s(&[read_ahead, BIG_WRITES]).u16s(&AHEAD);
            // After the size of a write: how exact times are. What follows is not used.
            Answer::Data(out.u32s(&[MAX_WRITE, 1]).u32s(&[0; 9]))
        }
        LOOKUP => {
            let name = body.split(|b| *b == 0).next().unwrap_or_default();
            match node == ROOT && name == NAME.as_bytes() {
                // A generation and how long it all holds: ask again each time.
                true => Answer::Data(attributes(Out::default().u64s(&[FILE, 0, 0, 0]).u32s(&[0, 0]), FILE, disk)),
                false => Answer::Refused(Errno::NOENT),
            }
        }
        GETATTR => Answer::Data(attributes(Out::default().u64s(&[0]).u32s(&[0, 0]), node, disk)),
        OPEN => Answer::Data(Out::default().u64s(&[0]).u32s(&[0, 0])),
        READ => {
            let (at, size) = (u64_at(body, 8)?, u32_at(body, 16)?);
            Answer::Data(Out(disk.read(at as usize, size as usize).to_vec()))
        }
        WRITE | FSYNC if !power.takes_one() => Answer::PowerIsGone,
        WRITE => {
            let (at, size) = (u64_at(body, 8)?, u32_at(body, 16)?);
            let bytes = body.get(BEFORE_BYTES..).and_then(|b| b.get(..size as usize)).ok_or_else(cut_off)?;
            match disk.write(at as usize, bytes) {
                true => Answer::Data(Out::default().u32s(&[size, 0])),
                false => Answer::Refused(Errno::NOSPC),
            }
        }
        FSYNC => {
            disk.flush();
            Answer::Data(Out::default())
        }
        FORGET | BATCH_FORGET | INTERRUPT => Answer::Nothing,
        _ => Answer::Refused(Errno::NOSYS),
    })
}

fn attributes(before: Out, node: u64, disk: &Disk) -> Out {
    let (size, mode) = if node == FILE { (disk.size() as u64, FILE_MODE) } else { (0, DIRECTORY_MODE) };
    // Size and blocks, then three times without and with their nanoseconds; then links, owner and group, device.
    let out = before.u64s(&[node, size, size.div_ceil(512), 0, 0, 0]).u32s(&[0, 0, 0]);
    out.u32s(&[mode, 1, 0, 0, 0, BLOCK, 0])
}

/// The fields of an answer, one after the other, as this machine has them in memory.
#[derive(Default)]
struct Out(Vec<u8>);

impl Out {
    fn u64s(mut self, all: &[u64]) -> Self {
        self.0.extend(all.iter().flat_map(|n| n.to_ne_bytes()));
        self
    }
    fn u32s(mut self, all: &[u32]) -> Self {
        self.0.extend(all.iter().flat_map(|n| n.to_ne_bytes()));
        self
    }
    fn u16s(mut self, all: &[u16]) -> Self {
        self.0.extend(all.iter().flat_map(|n| n.to_ne_bytes()));
        self
    }
}

fn u32_at(from: &[u8], at: usize) -> io::Result<u32> {
    Ok(u32::from_ne_bytes(bytes(from, at)?))
}

fn u64_at(from: &[u8], at: usize) -> io::Result<u64> {
    Ok(u64::from_ne_bytes(bytes(from, at)?))
}

fn bytes<const N: usize>(from: &[u8], at: usize) -> io::Result<[u8; N]> {
    from.get(at..).and_then(|b| b.first_chunk()).copied().ok_or_else(cut_off)
}

fn cut_off() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "a request is cut off")
}
