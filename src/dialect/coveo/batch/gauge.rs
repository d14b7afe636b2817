//! How much is read, and when it is too much.

use std::cell::{Cell, RefCell};
use std::io::{self, Read};

use crate::dialect::coveo::json;

/// Bytes read at a time.
const BUFFER_BYTES: usize = 256 * 1024;

/// What the reader and the visitors tell each other: how much was read since something began, and how it may end.
#[derive(Debug, Default)]
pub(super) struct Gauge {
    pub(super) total: Cell<u64>,
    /// Bytes that what is being read may still have; none while nothing is kept.
    left: Cell<Option<u64>>,
    pub(super) over: Cell<bool>,
    pub(super) failed: RefCell<Option<io::Error>>,
}

impl Gauge {
    /// Begins something that may have `limit` bytes. Its first byte was already looked at.
    pub(super) fn arm(&self, limit: u64) {
        self.left.set(Some(limit.saturating_sub(1)));
    }

    pub(super) fn disarm(&self) {
        self.left.set(None);
    }

    fn count(&self) -> io::Result<()> {
        self.total.set(self.total.get() + 1);
        match self.left.get() {
            None => Ok(()),
            Some(0) => {
                self.over.set(true);
                Err(io::Error::other("a record is too large"))
            }
            Some(left) => {
                self.left.set(Some(left - 1));
                Ok(())
            }
        }
    }
}

/// A buffered reader that counts every byte taken from it. The JSON reader takes them one by one, so that what was
/// counted is what was looked at, not what was buffered.
pub(super) struct Metered<'g, R> {
    input: R,
    gauge: &'g Gauge,
    buffer: Vec<u8>,
    at: usize,
    end: usize,
    begun: bool,
}

impl<'g, R: Read> Metered<'g, R> {
    pub(super) fn new(input: R, gauge: &'g Gauge) -> Self {
        Self { input, gauge, buffer: vec![0; BUFFER_BYTES], at: 0, end: 0, begun: false }
    }

    /// Reads until there is something, or an end.
    fn fill(&mut self) -> io::Result<()> {
        (self.at, self.end) = (0, 0);
        loop {
            // Enough for a byte order mark, if there is one, before the first byte is told.
            let wanted = if self.begun { 1 } else { json::BOM.len() };
            match self.input.read(self.buffer.get_mut(self.end..).unwrap_or_default()) {
                Ok(0) => break,
                Ok(n) => self.end = self.buffer.len().min(self.end + n),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => {
                    let told = io::Error::from(e.kind());
                    *self.gauge.failed.borrow_mut() = Some(e);
                    return Err(told);
                }
            }
            if self.end >= wanted {
                break;
            }
        }
        if !self.begun {
            self.begun = true;
            if self.buffer.get(..self.end).is_some_and(|read| read.starts_with(json::BOM)) {
                self.at = json::BOM.len();
                if self.at == self.end {
                    return self.fill();
                }
            }
        }
        Ok(())
    }
}

impl<R: Read> Read for Metered<'_, R> {
    #[inline]
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at == self.end {
            self.fill()?;
        }
        if self.at == self.end {
            return Ok(0);
        }
        let (Some(byte), Some(slot)) = (self.buffer.get(self.at), out.first_mut()) else { return Ok(0) };
        *slot = *byte;
        self.at += 1;
        self.gauge.count()?;
        Ok(1)
    }
}
