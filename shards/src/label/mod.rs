//! Labels: what is printed on a thing, so that whoever holds it can claim it (XEP-0347 v0.5.1 §3.6).
//!
//! Called by the command line; needs no broker and no data directory. A label is an `iotdisco:` URI as a QR code, alone or
//! with its tags in words; a batch is a CSV table, and a sheet of labels to print or a file each. Nothing leaves the machine:
//! the URI has the key.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, IsTerminal as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use plaza_core::thing::KEY;
use plaza_core::thing::uri::{Claim, URI_BYTES_MAX, Uri};
use serde_json::json;

use crate::cli::Failure;
use crate::control::accounts::random;

mod code;
mod sheet;
pub mod table;

use code::Code;
pub use sheet::LabelSize;
use sheet::Sheet;
use table::Rows;

/// Bytes that a table's line may have, over all lines of a cell: eight times as much as a URI that says as much.
const ROW_BYTES_MAX: usize = 8 * URI_BYTES_MAX;
/// How often progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// What to print on labels, and how.
#[derive(Debug, Clone, Args)]
pub struct LabelArgs {
    /// The claim URI, or the older IoTDisco text; in its place there may be tags, or a batch
    #[arg(conflicts_with_all = ["tag", "number", "key", "new_key", "registry", "batch"])]
    pub uri: Option<String>,
    /// A tag of text, such as SN=98734238472634; may be given several times
    #[arg(long, value_name = "NAME=VALUE", conflicts_with = "batch")]
    pub tag: Vec<String>,
    /// A tag that is a number, such as V=1.0; may be given several times
    #[arg(long, value_name = "NAME=VALUE", conflicts_with = "batch")]
    pub number: Vec<String>,
    /// The key, which the thing registers with too. Others on this machine may see what is on a command line
    #[arg(long, value_name = "TEXT", conflicts_with = "batch")]
    pub key: Option<String>,
    /// Make a random key of 128 bits; in a batch for each row that has none
    #[arg(long, conflicts_with = "key")]
    pub new_key: bool,
    /// The registry's address, such as things.example.org; in a batch for each row that has none
    #[arg(long, value_name = "JID")]
    pub registry: Option<String>,
    /// CSV table of things, `-` for standard input. The first row names the tags: `#` before a name makes it a number, KEY
    /// is the key and R the registry; an empty cell is no tag
    #[arg(long, value_name = "FILE")]
    pub batch: Option<PathBuf>,
    /// Write the batch with its keys and URIs as a CSV table, to provide the things with the keys that were made
    #[arg(long, value_name = "FILE", requires = "batch")]
    pub table: Option<PathBuf>,
    /// Where to: a file, or for a batch of `svg` and `png` a directory [default: standard output]
    #[arg(long, short, value_name = "PATH")]
    pub output: Option<PathBuf>,
    /// What to write [default: by the name of the output; else `sheet` for a batch, and `terminal`]
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// How much of the code may be damaged: L 7 %, M 15 %, Q 25 %, H 30 %
    #[arg(long, value_enum, default_value_t = Level::M, ignore_case = true)]
    pub level: Level,
    /// Pixels of a module, the smallest square of a code; for svg and png
    #[arg(long, value_name = "PIXELS", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub scale: u16,
    /// Millimetres of a label on a sheet, width × height; 70x37 is 24 labels on A4
    #[arg(long, value_name = "WxH", default_value = "70x37")]
    pub size: LabelSize,
    /// Print the key in words, too, so that it can be typed where a code can't be read
    #[arg(long)]
    pub show_key: bool,
}

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// An image that scales
    Svg,
    /// An image of pixels
    Png,
    /// Half blocks, to be read from the screen
    Terminal,
    /// HTML page to print: codes with their tags in words
    Sheet,
    /// The URI alone
    Uri,
}

/// Error correction of a QR code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "verbatim")]
#[expect(missing_docs, reason = "the standard's own names")]
pub enum Level {
    L,
    M,
    Q,
    H,
}

/// Makes labels. `as_json`: say on standard error what was made as JSON.
///
/// # Errors
/// [`Failure::Failed`] if something is no claim or does not fit, [`Failure::CantCreate`] if the output can't be written.
pub fn run(args: &LabelArgs, as_json: bool) -> Result<(), Failure> {
    let format = args.format();
    if args.batch.is_some() {
        let labels = batch(args, format)?;
        if as_json {
            eprintln!("{}", json!({ "labels": labels }));
        }
        return Ok(());
    }
    let (claim, uri) = args.claim()?;
    let mut out = open(args.output.as_deref(), format)?;
    match format {
        Format::Sheet => {
            let mut sheet = wrote(Sheet::begin(&mut out, args.size, args.show_key))?;
            wrote(sheet.label(&args.code(&uri)?, &claim))?;
            wrote(sheet.end())?;
        }
        Format::Uri => wrote(writeln!(out, "{uri}"))?,
        Format::Svg => wrote(args.code(&uri)?.write_svg(&mut out, args.scale))?,
        Format::Png => wrote(args.code(&uri)?.write_png(&mut out, args.scale))?,
        Format::Terminal => {
            let colours = args.output.is_none() && io::stdout().is_terminal();
            wrote(args.code(&uri)?.write_blocks(&mut out, colours))?;
        }
    }
    wrote(out.flush())?;
    if as_json {
        eprintln!("{}", json!({ "labels": 1, "uri": uri }));
    } else if args.new_key && format != Format::Uri {
        // Who has the thing must be told the key, and an image is not read back.
        eprintln!("{uri}");
    }
    Ok(())
}

impl LabelArgs {
    fn format(&self) -> Format {
        let extension = self.output.as_deref().and_then(Path::extension).and_then(|extension| extension.to_str());
        let by_name = match extension {
            Some("svg") => Some(Format::Svg),
            Some("png") => Some(Format::Png),
            Some("html" | "htm") => Some(Format::Sheet),
            Some(_) | None => None,
        };
        let otherwise = if self.batch.is_some() { Format::Sheet } else { Format::Terminal };
        self.format.or(by_name).unwrap_or(otherwise)
    }

    /// The claim meant by the arguments, and its URI.
    fn claim(&self) -> Result<(Claim, String), Failure> {
        let uri = match &self.uri {
            Some(text) => Uri::parse(text.trim()),
            None => {
                let key = self.key.clone().map_or_else(|| self.made_key(), |key| Ok(Some(key)))?;
                let mut tags = Vec::new();
                for (is_number, given) in [(false, &self.tag), (true, &self.number)] {
                    for text in given {
                        let split = text.split_once('=');
                        let (name, value) = split.ok_or_else(|| refused(format!("{text:?} is not NAME=VALUE")))?;
                        tags.push((is_number, name, value));
                    }
                }
                tags.extend(key.as_deref().map(|key| (false, KEY, key)));
                tags.extend(self.registry.as_deref().map(|registry| (false, "R", registry)));
                Uri::of_tags(tags)
            }
        };
        claim(uri.map_err(|error| refused(error.to_string()))?)
    }

    fn made_key(&self) -> Result<Option<String>, Failure> {
        if !self.new_key {
            return Ok(None);
        }
        let bytes: [u8; 16] = random()?;
        Ok(Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    fn code(&self, uri: &str) -> Result<Code, Failure> {
        Code::new(uri, self.level).ok_or_else(|| {
            refused(format!("the URI has {} bytes, which no QR code of level {:?} holds", uri.len(), self.level))
        })
    }
}

/// A URI that claims something, as it is printed.
fn claim(uri: Uri) -> Result<(Claim, String), Failure> {
    let text = uri.to_text().map_err(|error| refused(error.to_string()))?;
    match uri {
        Uri::Claim(claim) => Ok((claim, text)),
        Uri::Search(_) => {
            Err(refused("it claims nothing: a label needs a KEY (--key, or --new-key to make one)".into()))
        }
        Uri::Reference(_) => Err(refused("it claims nothing: it is the address of a thing".into())),
    }
}

fn refused(text: String) -> Failure {
    Failure::Failed(text)
}

fn wrote<T>(written: io::Result<T>) -> Result<T, Failure> {
    written.map_err(|error| Failure::CantCreate(format!("can't write: {error}")))
}

/// The output: readable by its owner alone, as it has keys.
fn open(path: Option<&Path>, format: Format) -> Result<Box<dyn Write>, Failure> {
    let Some(path) = path.filter(|path| *path != Path::new("-")) else {
        if format == Format::Png && io::stdout().is_terminal() {
            return Err(refused("a PNG is nothing for a terminal: name a file with --output".into()));
        }
        return Ok(Box::new(BufWriter::new(io::stdout().lock())));
    };
    Ok(Box::new(create(path)?))
}

fn create(path: &Path) -> Result<BufWriter<File>, Failure> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    let file = file.map_err(|error| Failure::CantCreate(format!("can't create {}: {error}", path.display())))?;
    Ok(BufWriter::new(file))
}

/// Makes the labels of a table, a row at a time; how many they were.
fn batch(args: &LabelArgs, format: Format) -> Result<u64, Failure> {
    let path = args.batch.as_deref().unwrap_or_else(|| Path::new("-"));
    let (input, bytes) = read_from(path)?;
    let mut rows = Rows::begin(input, ROW_BYTES_MAX).map_err(|error| at_row(1, &error.to_string()))?;
    let mut table = match &args.table {
        Some(path) => {
            let mut out = create(path)?;
            wrote(table::write_row(&mut out, rows.names().chain(["KEY", "URI"])))?;
            Some(out)
        }
        None => None,
    };
    let mut output = Output::open(args, format)?;
    let mut progress = Progress::new(bytes);
    let mut labels = 0;
    while let Some(row) = rows.next_row().map_err(|error| at_row(labels + 2, &error.to_string()))? {
        let label = label_of(args, &rows, &row).map_err(|failure| at_row(labels + 2, &failure.to_string()));
        let (claim, uri) = label?;
        output.put(args, labels + 1, &claim, &uri).map_err(|failure| match failure {
            Failure::Failed(text) => at_row(labels + 2, &text),
            failure @ (Failure::Unavailable(_) | Failure::Ended(_) | Failure::CantCreate(_) | Failure::Config(_)) => {
                failure
            }
        })?;
        if let Some(table) = &mut table {
            let cells = row.iter().map(String::as_str).chain([&*claim.key, &*uri]);
            wrote(table::write_row(table, cells))?;
        }
        labels += 1;
        progress.tell(labels, rows.bytes_read(), false);
    }
    output.end()?;
    if let Some(mut table) = table {
        wrote(table.flush())?;
    }
    progress.tell(labels, rows.bytes_read(), true);
    Ok(labels)
}

fn at_row(row: u64, text: &str) -> Failure {
    refused(format!("row {row}: {text}"))
}

fn read_from(path: &Path) -> Result<(Box<dyn BufRead>, Option<u64>), Failure> {
    if path == Path::new("-") {
        return Ok((Box::new(io::stdin().lock()), None));
    }
    let file = File::open(path).map_err(|error| refused(format!("can't read {}: {error}", path.display())))?;
    let bytes = file.metadata().ok().map(|facts| facts.len());
    Ok((Box::new(BufReader::new(file)), bytes))
}

/// The claim of a row, with the key and the registry of the command line where it has none.
fn label_of(args: &LabelArgs, rows: &Rows<impl BufRead>, row: &[String]) -> Result<(Claim, String), Failure> {
    let cells = rows.columns().zip(row).filter(|(_, value)| !value.is_empty());
    let mut tags: Vec<(bool, &str, &str)> =
        cells.map(|((is_number, name), value)| (is_number, name, value.as_str())).collect();
    let has = |wanted: &str| tags.iter().any(|(_, name, _)| name.eq_ignore_ascii_case(wanted));
    let key = if has(KEY) { None } else { args.made_key()? };
    let registry = if has("R") { None } else { args.registry.as_deref() };
    tags.extend(key.as_deref().map(|key| (false, KEY, key)));
    tags.extend(registry.map(|registry| (false, "R", registry)));
    claim(Uri::of_tags(tags).map_err(|error| refused(error.to_string()))?)
}

/// Where the labels of a batch go.
enum Output {
    Sheet(Box<Sheet<Box<dyn Write>>>),
    Files(PathBuf, Format),
    Lines(Box<dyn Write>, Format),
}

impl Output {
    fn open(args: &LabelArgs, format: Format) -> Result<Self, Failure> {
        match format {
            Format::Sheet => {
                let sheet = Sheet::begin(open(args.output.as_deref(), format)?, args.size, args.show_key);
                Ok(Self::Sheet(Box::new(wrote(sheet)?)))
            }
            Format::Svg | Format::Png => {
                let Some(directory) = &args.output else {
                    return Err(refused("images of a batch are files: name a directory with --output".into()));
                };
                fs::create_dir_all(directory)
                    .map_err(|error| Failure::CantCreate(format!("can't create {}: {error}", directory.display())))?;
                Ok(Self::Files(directory.clone(), format))
            }
            Format::Terminal | Format::Uri => Ok(Self::Lines(open(args.output.as_deref(), format)?, format)),
        }
    }

    fn put(&mut self, args: &LabelArgs, number: u64, claim: &Claim, uri: &str) -> Result<(), Failure> {
        match self {
            Self::Sheet(sheet) => wrote(sheet.label(&args.code(uri)?, claim)),
            Self::Files(directory, format) => {
                let code = args.code(uri)?;
                let is_png = *format == Format::Png;
                let name = format!("{number:07}.{}", if is_png { "png" } else { "svg" });
                let mut out = create(&directory.join(name))?;
                let scale = args.scale;
                let written = if is_png { code.write_png(&mut out, scale) } else { code.write_svg(&mut out, scale) };
                wrote(written.and_then(|()| out.flush()))
            }
            Self::Lines(out, Format::Uri) => wrote(writeln!(out, "{uri}")),
            Self::Lines(out, _) => wrote(args.code(uri)?.write_blocks(out, false)),
        }
    }

    fn end(self) -> Result<(), Failure> {
        match self {
            Self::Sheet(sheet) => wrote(sheet.end()),
            Self::Files(..) => Ok(()),
            Self::Lines(mut out, _) => wrote(out.flush()),
        }
    }
}

/// How far a batch is, on standard error if somebody looks at it.
struct Progress {
    bytes: Option<u64>,
    told: Option<Instant>,
}

impl Progress {
    fn new(bytes: Option<u64>) -> Self {
        Self { bytes, told: io::stderr().is_terminal().then(Instant::now) }
    }

    fn tell(&mut self, labels: u64, read: u64, is_last: bool) {
        let Some(told) = &mut self.told else { return };
        if !is_last && told.elapsed() < PROGRESS_INTERVAL {
            return;
        }
        *told = Instant::now();
        let share = self.bytes.filter(|&bytes| bytes > 0).map(|bytes| read.min(bytes) * 100 / bytes);
        let share = share.map(|percent| format!(", {percent} %")).unwrap_or_default();
        eprint!("\r{labels} labels{share}{}", if is_last { "\n" } else { "" });
    }
}

#[cfg(test)]
mod tests;
