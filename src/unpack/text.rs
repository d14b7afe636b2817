//! Base64 as a stream, in lines or without, with its padding or without.

use std::io::{self, Read};

use super::corrupt;

/// Decoder state between two bytes of Base64 text.
#[derive(Default)]
pub(super) struct Base64 {
    bits: u32,
    digits: u8,
    pub(super) padding: u8,
}

impl Base64 {
    pub(super) fn push(&mut self, byte: u8, output: &mut Vec<u8>) -> Result<(), &'static str> {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => {
                self.padding += 1;
                return if self.digits >= 2 && self.digits + self.padding <= 4 {
                    Ok(())
                } else {
                    Err("misplaced Base64 padding")
                };
            }
            b' ' | b'\t' | b'\r' | b'\n' => return Ok(()),
            _ => return Err("a character outside the Base64 alphabet"),
        };
        if self.padding > 0 {
            return Err("data after the Base64 padding");
        }
        self.bits = self.bits << 6 | u32::from(value);
        self.digits += 1;
        if self.digits == 4 {
            let [_, a, b, c] = self.bits.to_be_bytes();
            output.extend([a, b, c]);
            (self.bits, self.digits) = (0, 0);
        }
        Ok(())
    }

    /// Padding may be left out, a lone digit may not.
    pub(super) fn finish(&mut self, output: &mut Vec<u8>) -> Result<(), &'static str> {
        let [_, a, b, _] = (self.bits << (6 * u32::from(4 - self.digits.min(4)))).to_be_bytes();
        match (self.digits, self.padding) {
            (0, 0) => {}
            (2, 0 | 2) => output.push(a),
            (3, 0 | 1) => output.extend([a, b]),
            _ => return Err("the Base64 text is cut short"),
        }
        (self.bits, self.digits, self.padding) = (0, 0, 0);
        Ok(())
    }
}

pub(super) struct Base64Reader<R> {
    inner: R,
    state: Base64,
    input: Vec<u8>,
    output: Vec<u8>,
    taken: usize,
    ended: bool,
}

impl<R: Read> Base64Reader<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, state: Base64::default(), input: vec![0; 16 * 1024], output: Vec::new(), taken: 0, ended: false }
    }
}

impl<R: Read> Read for Base64Reader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.output.len() && !self.ended {
            self.output.clear();
            self.taken = 0;
            let count = self.inner.read(&mut self.input)?;
            if count == 0 {
                self.ended = true;
                self.state.finish(&mut self.output).map_err(corrupt)?;
            }
            for byte in self.input.iter().take(count) {
                self.state.push(*byte, &mut self.output).map_err(corrupt)?;
            }
        }
        let mut rest = self.output.get(self.taken..).unwrap_or_default();
        let count = rest.read(buf)?;
        self.taken += count;
        Ok(count)
    }
}
