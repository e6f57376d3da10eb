//! A sheet of labels: one HTML page that needs nothing else, to be printed from a browser.

use std::io::{self, Write};
use std::str::FromStr;

use plaza_core::thing::TagValue;
use plaza_core::thing::uri::Claim;
use plaza_core::xml::write;

use super::code::Code;

/// Millimetres of a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LabelSize {
    width: u16,
    height: u16,
}

impl FromStr for LabelSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sides = text.split_once(['x', '×']);
        let sides = sides.and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
        match sides {
            // A label is wider than high: the words stand beside the code. A sheet of A4 has 210 mm.
            Some((width, height)) if (15..=297).contains(&height) && (height..=210).contains(&width) => {
                Ok(Self { width, height })
            }
            _ => Err("not like 70x37: millimetres, at least 15 high, no higher than wide, at most 210 wide".into()),
        }
    }
}

/// A sheet that is being written.
pub(super) struct Sheet<W> {
    out: W,
    show_key: bool,
}

impl<W: Write> Sheet<W> {
    /// Writes the head of the page.
    pub(super) fn begin(mut out: W, size: LabelSize, show_key: bool) -> io::Result<Self> {
        let LabelSize { width, height } = size;
        writeln!(
            out,
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Labels</title><style>\n\
             @page {{ size: A4; margin: 0 }}\n\
             body {{ margin: 0; width: 210mm; font: 2.4mm/1.25 sans-serif }}\n\
             .label {{ float: left; box-sizing: border-box; width: {width}mm; height: {height}mm; padding: 1mm; \
             overflow: hidden; break-inside: avoid }}\n\
             .label svg {{ float: left; width: {side}mm; height: {side}mm }}\n\
             .label p {{ margin: 1mm 0 0 {text}mm; overflow-wrap: anywhere }}\n\
             @media screen {{ .label {{ outline: .1mm dotted #999 }} }}\n\
             </style></head><body>",
            side = height - 2,
            text = height - 1,
        )?;
        Ok(Self { out, show_key })
    }

    /// Writes a label: the code, and beside it what it says.
    pub(super) fn label(&mut self, code: &Code, claim: &Claim) -> io::Result<()> {
        let width = code.width();
        let path = code.path();
        let mut words = Vec::new();
        let mut line = |name: &str, value: &str| {
            if !words.is_empty() {
                words.extend_from_slice(b"<br>");
            }
            words.extend_from_slice(b"<b>");
            write::text(&mut words, name);
            words.extend_from_slice(b"</b> ");
            write::text(&mut words, value);
        };
        for tag in &claim.tags {
            match &tag.value {
                TagValue::Str(text) => line(&tag.name, text),
                TagValue::Num(number) => line(&tag.name, &number.to_string()),
            }
        }
        for (name, value) in [("NID", &claim.node.id), ("SID", &claim.node.source), ("PT", &claim.node.partition)] {
            if !value.is_empty() {
                line(name, value);
            }
        }
        if let Some(registry) = &claim.registry {
            line("R", registry.as_str());
        }
        if self.show_key {
            line("KEY", &claim.key);
        }
        write!(
            self.out,
            "<div class=\"label\"><svg viewBox=\"0 0 {width} {width}\" shape-rendering=\"crispEdges\">\
             <path d=\"{path}\"/></svg><p>"
        )?;
        self.out.write_all(&words)?;
        writeln!(self.out, "</p></div>")
    }

    /// Writes the end of the page.
    pub(super) fn end(mut self) -> io::Result<()> {
        writeln!(self.out, "</body></html>")?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_has_a_size_that_fits_on_a_page() {
        let size = |text: &str| text.parse::<LabelSize>();
        assert_eq!(size("70x37"), Ok(LabelSize { width: 70, height: 37 }));
        assert_eq!(size("210×210"), Ok(LabelSize { width: 210, height: 210 }));
        for bad in ["", "70", "x", "70x", "37x70", "211x20", "70x14", "-70x37", "7.5x3", "70x37x1"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
