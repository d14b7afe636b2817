//! Plain text.

use std::io::Read;

use super::charset::Utf8;
use super::protocol::Failure;
use super::text::Text;

pub(super) fn extract<R: Read>(mut source: Utf8<R>, text: &mut Text) -> Result<(), Failure> {
    while let Some(run) = source.next()? {
        text.push(run);
        if text.is_full() {
            break;
        }
    }
    Ok(())
}
