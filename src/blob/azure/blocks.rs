//! Blocks of a blob: their names, the list that makes a blob of them, and finding those that make one.
//!
//! A block is named by where it begins and how long it is. A blob has one writer, so that its name says what is in it: a block
//! that is sent again or comes late is the same, and any row of blocks without a gap is the beginning of the blob.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::blob::remote::Element;

/// Bytes of a block that is full. Others are as long as what was persisted.
pub(super) const BLOCK_BYTES: u64 = 8 * 1024 * 1024;

/// A block of a blob.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Block {
    /// Where in the blob it begins.
    pub(super) offset: u64,
    /// Its bytes.
    pub(super) length: u64,
}

impl Block {
    pub(super) const fn end(self) -> u64 {
        self.offset + self.length
    }

    /// Its name as the service wants it: of the same length for all blocks of a blob.
    pub(super) fn id(self) -> String {
        BASE64.encode(format!("{:012x}-{:08x}", self.offset, self.length))
    }

    fn parse(id: &str) -> Option<Self> {
        let name = String::from_utf8(BASE64.decode(id).ok()?).ok()?;
        let (offset, length) =
            name.split_once('-').filter(|(offset, length)| (offset.len(), length.len()) == (12, 8))?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        Some(Self { offset: number(offset)?, length: number(length)? })
    }

    /// Reads one of a list. What is named otherwise, or is not as long as its name says, is none.
    pub(super) fn read(entry: &Element) -> Option<Self> {
        let block = Self::parse(entry.get("Name")?)?;
        (entry.number("Size") == Some(block.length)).then_some(block)
    }
}

/// The document that makes a blob of these.
pub(super) fn list(blocks: &[Block]) -> String {
    let mut xml = String::with_capacity(64 + blocks.len() * 60);
    xml.push_str("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>");
    for block in blocks {
        xml.push_str("<Uncommitted>");
        xml.push_str(&block.id());
        xml.push_str("</Uncommitted>");
    }
    xml.push_str("</BlockList>");
    xml
}

/// The fewest of these blocks that make the first `length` bytes, and as few as there are behind them.
///
/// # Errors
/// How many bytes there are without a gap, when they are fewer.
pub(super) fn covering(blocks: &[Block], length: u64) -> Result<Vec<Block>, u64> {
    let mut sorted: Vec<Block> = blocks.iter().copied().filter(|block| block.length > 0).collect();
    sorted.sort_unstable();
    // Up to where one gets, with how many, and the last of them. Blocks lie in the order of their beginnings, so that
    // nothing changes any more about where one begins when its turn has come.
    let mut ways: BTreeMap<u64, (usize, Option<Block>)> = BTreeMap::from([(0, (0, None))]);
    for block in sorted {
        let Some((count, _)) = ways.get(&block.offset) else { continue };
        let count = count + 1;
        if ways.get(&block.end()).is_none_or(|(fewest, _)| count < *fewest) {
            ways.insert(block.end(), (count, Some(block)));
        }
    }
    let Some(end) = ways.range(length..).next().map(|(end, _)| *end) else {
        return Err(ways.last_key_value().map_or(0, |(end, _)| *end));
    };
    let mut row = Vec::new();
    let mut at = end;
    while let Some((_, Some(block))) = ways.get(&at) {
        row.push(*block);
        at = block.offset;
    }
    row.reverse();
    Ok(row)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block(offset: u64, length: u64) -> Block {
        Block { offset, length }
    }

    #[test]
    fn a_name_says_where_a_block_is() {
        for one in [block(0, 1), block(5 << 40, BLOCK_BYTES), block((1 << 48) - 1, u64::from(u32::MAX))] {
            let id = one.id();
            assert_eq!((id.len(), Block::parse(&id)), (28, Some(one)));
            assert!(id.bytes().all(|b| b.is_ascii_alphanumeric()), "nothing to escape in a URL: {id}");
        }
        for bad in ["", "!", "AAAA", &BASE64.encode("00000000000g-00000001"), &BASE64.encode("0-1")] {
            assert_eq!(Block::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_list_is_read_and_what_does_not_fit_its_name_is_none() {
        let (one, other) = (block(0, 5).id(), block(5, 3).id());
        let xml = format!(
            "<BlockList><UncommittedBlocks><Block><Name>{one}</Name><Size>5</Size></Block><Block><Name>{other}</Name>\
             <Size>4</Size></Block><Block><Name>eA==</Name><Size>4</Size></Block></UncommittedBlocks></BlockList>"
        );
        let list = Element::read(xml.as_bytes()).unwrap();
        let blocks: Vec<_> = list.all("UncommittedBlocks").flat_map(|all| all.all("Block")).map(Block::read).collect();
        assert_eq!(blocks, [Some(block(0, 5)), None, None]);
    }

    #[test]
    fn the_fewest_blocks_without_a_gap_are_found() {
        let all =
            [block(0, 4), block(4, 4), block(0, 8), block(8, 2), block(2, 1), block(10, 5), block(8, 3), block(20, 9)];
        assert_eq!(covering(&all, 0), Ok(vec![]));
        assert_eq!(covering(&all, 1), Ok(vec![block(0, 4)]));
        assert_eq!(covering(&all, 8), Ok(vec![block(0, 8)]));
        // The longest from 8 leads nowhere, the other one goes on.
        assert_eq!(covering(&all, 12), Ok(vec![block(0, 8), block(8, 2), block(10, 5)]));
        assert_eq!(covering(&all, 16), Err(15));
        assert_eq!(covering(&[], 1), Err(0));
        assert_eq!(covering(&[block(1, 5)], 1), Err(0));
    }

    proptest! {
        #[test]
        fn what_is_found_has_no_gap_and_is_never_short(
            all in prop::collection::vec((0u64..40, 0u64..12), 0..60), length in 0u64..50,
        ) {
            let all: Vec<Block> = all.into_iter().map(|(offset, length)| block(offset, length)).collect();
            match covering(&all, length) {
                Ok(row) => {
                    let mut end = 0;
                    for block in &row {
                        prop_assert!(all.contains(block) && block.offset == end);
                        end = block.end();
                    }
                    prop_assert!(end >= length);
                    prop_assert!(row.last().is_none_or(|last| last.offset < length));
                }
                Err(found) => prop_assert!(found < length),
            }
        }
    }
}
