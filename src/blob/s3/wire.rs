//! The one document that is sent.

use quick_xml::escape::escape;

/// A part that the store has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Sent {
    pub(super) number: u32,
    pub(super) etag: String,
    /// The checksum that it was sent with, in Base64.
    pub(super) checksum: Option<String>,
}

/// The document that makes one object of parts.
pub(super) fn completion(parts: &[Sent]) -> String {
    let mut xml = String::with_capacity(64 + parts.len() * 160);
    xml.push_str("<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
    for Sent { number, etag, checksum } in parts {
        xml.push_str("<Part>");
        if let Some(checksum) = checksum {
            xml.push_str(&format!("<ChecksumCRC32C>{}</ChecksumCRC32C>", escape(checksum.as_str())));
        }
        xml.push_str(&format!("<ETag>{}</ETag><PartNumber>{number}</PartNumber></Part>", escape(etag.as_str())));
    }
    xml.push_str("</CompleteMultipartUpload>");
    xml
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::remote::Element;

    #[test]
    fn a_completion_names_what_was_sent() {
        let parts = [
            Sent { number: 1, etag: "\"x\"".into(), checksum: Some("AAAA+A==".into()) },
            Sent { number: 10_000, etag: "<y>".into(), checksum: None },
        ];
        let root = Element::read(completion(&parts).as_bytes()).unwrap();
        let read: Vec<_> = root.all("Part").map(|p| (p.number("PartNumber"), p.get("ETag"))).collect();
        assert_eq!(read, [(Some(1), Some("\"x\"")), (Some(10_000), Some("<y>"))]);
        assert_eq!(root.all("Part").next().unwrap().get("ChecksumCRC32C"), Some("AAAA+A=="));
    }
}
