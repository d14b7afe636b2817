//! Comma, semicolon or tab separated values: cells separated by a space, one row per line.

use std::io::Read;

use csv_core::{ReadFieldResult, ReaderBuilder};

use super::charset::Utf8;
use super::protocol::Failure;
use super::text::Text;

/// The separator that the first line uses most.
pub(super) fn delimiter(prefix: &str, extension: &str) -> u8 {
    if extension == "tsv" {
        return b'\t';
    }
    let line = prefix.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let count = |delimiter: u8| line.bytes().filter(|byte| *byte == delimiter).count();
    // The last of equals wins, so the comma comes last.
    [b'|', b'\t', b';', b','].into_iter().max_by_key(|delimiter| count(*delimiter)).unwrap_or(b',')
}

pub(super) fn extract<R: Read>(mut source: Utf8<R>, delimiter: u8, text: &mut Text) -> Result<(), Failure> {
    let mut reader = ReaderBuilder::new().delimiter(delimiter).build();
    let mut output = [0; 4096];
    // A character may be split over two fills of the output.
    let mut carry: Vec<u8> = Vec::new();
    loop {
        let run = source.next()?;
        let ended = run.is_none();
        let mut input = run.unwrap_or_default().as_bytes();
        // No input means to the reader that there is no more at all.
        while ended || !input.is_empty() {
            let (result, read, written) = reader.read_field(input, &mut output);
            input = input.get(read..).unwrap_or_default();
            carry.extend(output.iter().take(written));
            let valid = match std::str::from_utf8(&carry) {
                Ok(valid) => valid.len(),
                Err(error) => error.valid_up_to(),
            };
            text.push_flow(std::str::from_utf8(carry.get(..valid).unwrap_or_default()).unwrap_or_default());
            carry.drain(..valid);
            match result {
                ReadFieldResult::Field { record_end } => {
                    carry.clear();
                    if record_end { text.line() } else { text.space() }
                }
                ReadFieldResult::OutputFull => {}
                ReadFieldResult::InputEmpty if ended => {}
                ReadFieldResult::InputEmpty => break,
                ReadFieldResult::End => return Ok(()),
            }
            if text.is_full() {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(data: &str, extension: &str) -> String {
        let mut text = Text::new(10_000);
        extract(Utf8::new(data.as_bytes(), None), delimiter(data, extension), &mut text).unwrap();
        text.into_string()
    }

    #[test]
    fn cells_and_rows() {
        assert_eq!(cells("a,b\n\"x, \"\"y\"\"\nz\",2\n", "csv"), "a b\nx, \"y\" z 2");
        assert_eq!(cells("a;b\nc,d;e", "csv"), "a b\nc,d e");
        assert_eq!(cells("a\tb,c\n", "tsv"), "a b,c");
        let long = "é".repeat(5000);
        assert_eq!(cells(&long, "csv"), &long[..10_000]);
    }

    #[test]
    fn a_row_that_ends_with_a_run_of_the_input_is_not_the_last() {
        let rows = 100_000;
        let mut text = Text::new(1 << 20);
        let data = "abc,def\n".repeat(rows);
        extract(Utf8::new(data.as_bytes(), None), b',', &mut text).unwrap();
        assert_eq!(text.into_string().lines().count(), rows);
    }
}
