//! How a segment is cut into parts, and what a row keeps of one that is not finished.

use std::fmt;
use std::str::FromStr;

/// Bytes of a part, unless a segment is so long that it would have too many of them. The store's smallest is 5 MiB.
pub(super) const PART_BYTES: u64 = 8 * 1024 * 1024;
/// A part of more bytes is not held in memory: it is put together from objects that were written before.
pub(super) const HELD_BYTES: u64 = 16 * 1024 * 1024;
/// The number of the last part of a segment that somebody else seals. No writer uses it, so that what a writer sends
/// late can't take its place. It is the highest there is.
pub(super) const SEALING_PART: u32 = 10_000;
/// Parts of one size, where the length is not known beforehand.
const PARTS_PER_SIZE: u32 = 1_000;
/// Bytes of all parts together, whatever the length: more than any segment has.
const MIB: u64 = 1024 * 1024;

/// The sizes of a segment's parts. Where a part begins follows from its number, so that a row need not list them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Layout {
    /// All of so many bytes.
    Even(u64),
    /// The first thousand of [`PART_BYTES`], the next of twice as many, and so on: 8 TiB in all.
    Growing,
}

impl Layout {
    /// For a segment of this length, where it is known.
    pub(super) fn new(expected: Option<u64>) -> Self {
        let Some(length) = expected else { return Self::Growing };
        let least = length.div_ceil(u64::from(SEALING_PART - 1)).next_multiple_of(MIB);
        Self::Even(least.max(PART_BYTES))
    }

    /// Bytes of this part, if it is not the last. Numbers begin with 1.
    pub(super) fn bytes(self, number: u32) -> u64 {
        match self {
            Self::Even(bytes) => bytes,
            Self::Growing => PART_BYTES << (number.saturating_sub(1) / PARTS_PER_SIZE).min(9),
        }
    }

    /// Where this part begins.
    pub(super) fn start(self, number: u32) -> u64 {
        let before = number.saturating_sub(1);
        match self {
            Self::Even(bytes) => bytes * u64::from(before),
            Self::Growing => {
                let (sizes, rest) = (before / PARTS_PER_SIZE, before % PARTS_PER_SIZE);
                let whole: u64 = (0..sizes.min(9)).map(|size| (PART_BYTES << size) * u64::from(PARTS_PER_SIZE)).sum();
                let more = before.saturating_sub(9 * PARTS_PER_SIZE);
                let rest = if sizes > 9 { more } else { rest };
                whole + (PART_BYTES << sizes.min(9)) * u64::from(rest)
            }
        }
    }
}

/// An object of bytes that no part holds yet: what a persist wrote.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tail {
    /// Where in the segment it begins. Its key says so too.
    pub(super) offset: u64,
    /// Its bytes.
    pub(super) length: u64,
    /// Their checksum.
    pub(super) crc32c: u32,
}

impl Tail {
    pub(super) const fn end(self) -> u64 {
        self.offset + self.length
    }
}

/// What is durable of a segment whose writer has not finished it, as the piece's row keeps it: the first parts, whose
/// list the store has, and the objects behind them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Recorded {
    pub(super) layout: Layout,
    /// Full parts, numbered from 1.
    pub(super) parts: u32,
    /// In order and without a gap, from the end of the last part on.
    pub(super) tails: Vec<Tail>,
    /// The multipart upload; without one there are no parts.
    pub(super) upload: Option<String>,
}

impl Recorded {
    /// Where the tails begin.
    pub(super) fn in_parts(&self) -> u64 {
        self.layout.start(self.parts + 1)
    }

    /// Bytes in all.
    pub(super) fn length(&self) -> u64 {
        self.tails.last().map_or(self.in_parts(), |tail| tail.end())
    }
}

/// What a row keeps of a finished segment: that it is one object.
pub(super) const WHOLE: &str = "whole";
const FORM: &str = "parts1";
/// What the listing says of uploads in parts that nothing but themselves is known of: they alone are removed with it.
pub(super) const UPLOADS: &str = "uploads";
const PINNED: &str = "pin1";
/// Stands for what there is none of.
const NONE: &str = "-";

impl fmt::Display for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layout = match self.layout {
            Layout::Even(bytes) => bytes / MIB,
            Layout::Growing => 0,
        };
        write!(f, "{FORM} {layout} {} ", self.parts)?;
        for (index, tail) in self.tails.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{:x}.{:x}.{:08x}", tail.offset, tail.length, tail.crc32c)?;
        }
        write!(f, " {}", self.upload.as_deref().unwrap_or(""))
    }
}

/// Which bytes of those that lie, or lay, under a session's own key: a version of the bucket's, and what the store calls
/// their content. Without versions the key is given away once, so that there are no others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Pin {
    pub(super) version: Option<String>,
    pub(super) etag: Option<String>,
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| NONE.into());
        write!(f, "{PINNED} {} {}", or_none(&self.version), or_none(&self.etag))
    }
}

impl FromStr for Pin {
    type Err = NotRecorded;

    fn from_str(text: &str) -> Result<Self, NotRecorded> {
        let mut words = text.splitn(3, ' ');
        let mut next = || words.next().filter(|word| !word.is_empty()).ok_or(NotRecorded);
        if next()? != PINNED {
            return Err(NotRecorded);
        }
        let some = |word: &str| Some(word.to_owned()).filter(|word| word != NONE);
        Ok(Self { version: some(next()?), etag: some(next()?) })
    }
}

/// A text that [`Recorded`] or [`Pin`] did not write.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("what the row keeps of an unfinished segment can't be read")]
pub(super) struct NotRecorded;

impl FromStr for Recorded {
    type Err = NotRecorded;

    fn from_str(text: &str) -> Result<Self, NotRecorded> {
        let mut words = text.splitn(5, ' ');
        let mut next = || words.next().ok_or(NotRecorded);
        if next()? != FORM {
            return Err(NotRecorded);
        }
        let layout = match next()?.parse::<u64>().map_err(|_| NotRecorded)? {
            0 => Layout::Growing,
            mib => Layout::Even(mib.checked_mul(MIB).ok_or(NotRecorded)?),
        };
        let parts: u32 = next()?.parse().map_err(|_| NotRecorded)?;
        let tails = next()?.split(',').filter(|tail| !tail.is_empty()).map(tail).collect::<Result<Vec<_>, _>>()?;
        let upload = Some(next()?.to_owned()).filter(|upload| !upload.is_empty());
        let recorded = Self { layout, parts, tails, upload };
        let mut end = recorded.in_parts();
        let follows = recorded.tails.iter().all(|tail| std::mem::replace(&mut end, tail.end()) == tail.offset);
        let sound = follows && parts < SEALING_PART && (parts == 0 || recorded.upload.is_some());
        if sound { Ok(recorded) } else { Err(NotRecorded) }
    }
}

fn tail(text: &str) -> Result<Tail, NotRecorded> {
    let mut numbers = text.split('.').map(|number| u64::from_str_radix(number, 16).map_err(|_| NotRecorded));
    let mut next = || numbers.next().ok_or(NotRecorded)?;
    let (offset, length, crc32c) = (next()?, next()?, u32::try_from(next()?).map_err(|_| NotRecorded)?);
    offset.checked_add(length).ok_or(NotRecorded)?;
    Ok(Tail { offset, length, crc32c })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_parts_hold_whatever_may_come() {
        const TIB: u64 = 1 << 40;
        let most = 5 << 30;
        for layout in [Layout::Growing, Layout::new(Some(5 * TIB)), Layout::new(Some(0)), Layout::new(Some(1 << 30))] {
            let mut start = 0;
            for number in 1..SEALING_PART {
                assert_eq!(layout.start(number), start, "{layout:?} {number}");
                let bytes = layout.bytes(number);
                assert!((PART_BYTES..=most).contains(&bytes), "{layout:?} {number}");
                start += bytes;
            }
            let enough = matches!(layout, Layout::Even(PART_BYTES)) || start >= 5 * TIB;
            assert!(enough, "{layout:?} ends at {start}");
        }
        assert_eq!(Layout::new(Some(5 << 30)), Layout::Even(PART_BYTES));
    }

    #[test]
    fn what_a_row_keeps_reads_back() {
        let tails = vec![
            Tail { offset: 3 * PART_BYTES, length: 262_144, crc32c: 7 },
            Tail { offset: 3 * PART_BYTES + 262_144, length: 1, crc32c: u32::MAX },
        ];
        let some = Recorded { layout: Layout::Growing, parts: 3, tails, upload: Some("up~id-1_x.y=".into()) };
        assert_eq!(some.length(), 3 * PART_BYTES + 262_145);
        let none = Recorded { layout: Layout::Even(9 * MIB), parts: 0, tails: Vec::new(), upload: None };
        assert_eq!(none.length(), 0);
        for recorded in [some.clone(), none] {
            assert_eq!(recorded.to_string().parse(), Ok(recorded));
        }
        let text = some.to_string();
        for bad in
            ["", WHOLE, "parts1", "parts1 0 3  ", &text.replace("parts1 0 3", "parts1 0 4"), &text.replace(".1.", ".")]
        {
            assert_eq!(bad.parse::<Recorded>(), Err(NotRecorded), "{bad}");
        }
        assert!(text.len() < 100, "{text}");
    }

    #[test]
    fn a_pin_reads_back() {
        for (version, etag) in [(None, Some("\"a b\"")), (Some("3/L4kqtJlcpXroDTDmJ+rmSpXd3dIbrHY"), None)] {
            let pin = Pin { version: version.map(str::to_owned), etag: etag.map(str::to_owned) };
            assert_eq!(pin.to_string().parse(), Ok(pin));
        }
        for bad in ["", WHOLE, UPLOADS, "pin1", "pin1 ", "pin1 x", "pin1 x ", "pin2 x y"] {
            assert_eq!(bad.parse::<Pin>(), Err(NotRecorded), "{bad}");
        }
    }
}
