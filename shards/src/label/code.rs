//! QR codes (ISO/IEC 18004): a text as squares, and the squares as an image.

use std::fmt::Write as _;
use std::io::{self, Write};

use qrcode::{Color, EcLevel, QrCode};

use super::Level;

/// Modules of white that a code has around it.
const QUIET: usize = 4;

/// A code, with the white around it.
pub(super) struct Code {
    /// Rows of modules from the top, `true` is dark; as many columns as rows.
    rows: Vec<Vec<bool>>,
}

impl Code {
    /// The smallest code of a level that holds a text; `None` if none does.
    pub(super) fn new(text: &str, level: Level) -> Option<Self> {
        let level = match level {
            Level::L => EcLevel::L,
            Level::M => EcLevel::M,
            Level::Q => EcLevel::Q,
            Level::H => EcLevel::H,
        };
        let code = QrCode::with_error_correction_level(text, level).ok()?;
        let width = code.width() + 2 * QUIET;
        let white = vec![false; width];
        let mut rows = vec![white; QUIET];
        for row in code.to_colors().chunks(code.width()) {
            let dark = row.iter().map(|color| *color == Color::Dark);
            let quiet = || std::iter::repeat_n(false, QUIET);
            rows.push(quiet().chain(dark).chain(quiet()).collect());
        }
        rows.resize(width, vec![false; width]);
        Some(Self { rows })
    }

    /// Modules from side to side.
    pub(super) fn width(&self) -> usize {
        self.rows.len()
    }

    /// What is dark, as the path of an SVG: a rectangle for each run in a row.
    pub(super) fn path(&self) -> String {
        let mut path = String::new();
        for (y, row) in self.rows.iter().enumerate() {
            let mut x = 0;
            for run in row.chunk_by(|one, next| one == next) {
                if run.first() == Some(&true) {
                    let len = run.len();
                    write!(path, "M{x} {y}h{len}v1h-{len}z").expect("a string takes all text");
                }
                x += run.len();
            }
        }
        path
    }

    pub(super) fn write_svg(&self, out: &mut impl Write, scale: u16) -> io::Result<()> {
        let width = self.width();
        let pixels = width * usize::from(scale);
        writeln!(
            out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{pixels}\" height=\"{pixels}\" \
             viewBox=\"0 0 {width} {width}\" shape-rendering=\"crispEdges\"><path fill=\"#fff\" \
             d=\"M0 0h{width}v{width}H0z\"/><path d=\"{}\"/></svg>",
            self.path()
        )
    }

    /// Black and white, a bit for a pixel.
    pub(super) fn write_png(&self, out: &mut impl Write, scale: u16) -> io::Result<()> {
        let scale = usize::from(scale);
        let pixels = self.width() * scale;
        let mut image = Vec::with_capacity(pixels.div_ceil(8) * pixels);
        for row in &self.rows {
            let dark = row.iter().flat_map(|&dark| std::iter::repeat_n(dark, scale));
            let mut line = vec![0xff_u8; pixels.div_ceil(8)];
            for (x, _) in dark.enumerate().filter(|(_, dark)| *dark) {
                if let Some(byte) = line.get_mut(x / 8) {
                    *byte &= !(0x80 >> (x % 8));
                }
            }
            for _ in 0..scale {
                image.extend_from_slice(&line);
            }
        }
        let side = u32::try_from(pixels).map_err(io::Error::other)?;
        let mut encoder = png::Encoder::new(out, side, side);
        encoder.set_color(png::ColorType::Grayscale);
        encoder.set_depth(png::BitDepth::One);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&image)?;
        Ok(writer.finish()?)
    }

    /// Two rows to a line of half blocks, what is light drawn and what is dark left out, as screens are dark. With
    /// `colours` it is right on those that are not, too.
    pub(super) fn write_blocks(&self, out: &mut impl Write, colours: bool) -> io::Result<()> {
        let (begin, end) = if colours { ("\u{1b}[97;40m", "\u{1b}[0m") } else { ("", "") };
        for pair in self.rows.chunks(2) {
            let [upper, rest @ ..] = pair else { continue };
            let lower = rest.first();
            let mut line = String::new();
            for (x, upper) in upper.iter().enumerate() {
                // Below the last row there is nothing.
                let lower = lower.is_none_or(|row| row.get(x) == Some(&true));
                line.push(match (upper, lower) {
                    (false, false) => '█',
                    (false, true) => '▀',
                    (true, false) => '▄',
                    (true, true) => ' ',
                });
            }
            writeln!(out, "{begin}{line}{end}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What a camera sees, light as a fraction of 255.
    pub(in crate::label) fn read(width: usize, light: impl Fn(usize, usize) -> u8) -> Result<String, String> {
        let mut image = rqrr::PreparedImage::prepare_from_greyscale(width, width, light);
        let grids = image.detect_grids();
        let grid = grids.first().ok_or("no code is seen")?;
        grid.decode().map(|(_, text)| text).map_err(|error| error.to_string())
    }

    const SCALE: usize = 4;

    fn read_code(code: &Code) -> Result<String, String> {
        read(code.width() * SCALE, |x, y| if code.rows[y / SCALE][x / SCALE] { 0 } else { 255 })
    }

    const URI: &str = "iotdisco:SN=98734238472634;MAN=www.example.org;MODEL=H%C3%B6he%3B;#V=1.0;\
                       KEY=3453485763440213840928;R=discovery.example.org";

    #[test]
    fn a_code_of_each_level_reads_back() {
        for level in [Level::L, Level::M, Level::Q, Level::H] {
            assert_eq!(read_code(&Code::new(URI, level).unwrap()).as_deref(), Ok(URI), "{level:?}");
        }
        assert!(Code::new(&"x".repeat(2953), Level::L).is_some());
        assert!(Code::new(&"x".repeat(2954), Level::L).is_none());
        assert!(Code::new(&"x".repeat(2332), Level::M).is_none());
    }

    #[test]
    fn a_code_of_the_lowest_level_reads_back_with_some_of_it_damaged_and_never_as_something_else() {
        let (mut mended, mut refused) = (0, 0);
        for count in 1..=40 {
            let mut code = Code::new(URI, Level::L).unwrap();
            let inside = code.width() - 2 * QUIET;
            // Scattered, away from the corners by which a code is found.
            let mut place = 1_usize;
            for _ in 0..count {
                place = place * 75 % 65_537;
                let (x, y) = (10 + place % (inside - 20), 10 + place / 64 % (inside - 20));
                let module = &mut code.rows[QUIET + y][QUIET + x];
                *module = !*module;
            }
            match read_code(&code) {
                Ok(text) => {
                    assert_eq!(text, URI, "{count} damaged");
                    mended += 1;
                }
                Err(_) => refused += 1,
            }
        }
        assert!(mended >= 6, "{mended} of 40 codes were read");
        assert!(refused > 0, "no code is read whatever its damage");
    }

    #[test]
    fn a_png_shows_the_code() {
        for scale in [1, 3, 8] {
            let code = Code::new(URI, Level::M).unwrap();
            let mut file = Vec::new();
            code.write_png(&mut file, scale).unwrap();
            let mut reader = png::Decoder::new(io::Cursor::new(&file)).read_info().unwrap();
            let mut image = vec![0; reader.output_buffer_size().unwrap()];
            let info = reader.next_frame(&mut image).unwrap();
            let scale = usize::from(scale);
            assert_eq!(info.width as usize, code.width() * scale);
            let dark = |x: usize, y: usize| image[y * info.line_size + x / 8] & (0x80 >> (x % 8)) == 0;
            for y in 0..info.width as usize {
                for x in 0..info.width as usize {
                    assert_eq!(dark(x, y), code.rows[y / scale][x / scale], "{x} {y}");
                }
            }
        }
    }

    /// The squares that the path of an SVG draws.
    pub(in crate::label) fn drawn(path: &str, width: usize) -> Vec<Vec<bool>> {
        let mut rows = vec![vec![false; width]; width];
        for run in path.split('M').skip(1) {
            let (x, rest) = run.split_once(' ').unwrap();
            let (y, rest) = rest.split_once('h').unwrap();
            let len = rest.split_once('v').unwrap().0;
            let (x, y, len): (usize, usize, usize) = (x.parse().unwrap(), y.parse().unwrap(), len.parse().unwrap());
            rows[y][x..x + len].fill(true);
        }
        rows
    }

    #[test]
    fn an_svg_shows_the_code() {
        let code = Code::new(URI, Level::M).unwrap();
        let mut file = Vec::new();
        code.write_svg(&mut file, 2).unwrap();
        let text = String::from_utf8(file).unwrap();
        assert!(text.starts_with(&format!("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\"", 2 * code.width())));
        let path = text.split("<path d=\"").nth(1).unwrap().split('"').next().unwrap();
        assert_eq!(drawn(path, code.width()), code.rows);
    }

    #[test]
    fn blocks_on_a_screen_show_the_code() {
        let code = Code::new(URI, Level::M).unwrap();
        let mut out = Vec::new();
        code.write_blocks(&mut out, false).unwrap();
        let text = String::from_utf8(out).unwrap();
        let mut rows = Vec::new();
        for line in text.lines() {
            rows.push(line.chars().map(|c| matches!(c, ' ' | '▄')).collect::<Vec<_>>());
            rows.push(line.chars().map(|c| matches!(c, ' ' | '▀')).collect());
        }
        rows.truncate(code.width());
        assert_eq!(rows, code.rows);
        let mut out = Vec::new();
        code.write_blocks(&mut out, true).unwrap();
        let coloured = String::from_utf8(out).unwrap();
        assert!(coloured.lines().all(|line| line.starts_with("\u{1b}[97;40m") && line.ends_with("\u{1b}[0m")));
    }
}
