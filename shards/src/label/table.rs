//! Tables of things: CSV (RFC 4180), its first row the names of tags, read a row at a time.

use std::fmt;
use std::io::{self, BufRead, Read as _, Write};

/// Why a table can't be read on.
#[derive(Debug)]
pub enum TableError {
    /// The system's.
    Io(io::Error),
    /// It is no text.
    NotUtf8,
    /// A row is too long, with the bytes it may have; a quote that is not closed makes one.
    TooLong(usize),
    /// A quote within a cell that does not begin with one, or text behind a cell's closing quote.
    Quote,
    /// Another number of cells than the first row has.
    Cells {
        /// Of this row.
        found: usize,
        /// Of the first.
        wanted: usize,
    },
    /// There is no first row.
    Empty,
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "can't read: {error}"),
            Self::NotUtf8 => f.write_str("the table is not UTF-8"),
            Self::TooLong(bytes) => write!(f, "a row has more than {bytes} bytes; perhaps a quote is not closed"),
            Self::Quote => {
                f.write_str("a quote in the midst of a cell: quote the whole cell and double the quotes in it")
            }
            Self::Cells { found, wanted } => write!(f, "{found} cells, where the first row has {wanted}"),
            Self::Empty => f.write_str("the table is empty; its first row names the tags"),
        }
    }
}

impl From<io::Error> for TableError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The rows below the first.
#[derive(Debug)]
pub struct Rows<R> {
    input: R,
    row_bytes_max: usize,
    read: u64,
    names: Vec<String>,
}

impl<R: BufRead> Rows<R> {
    /// Reads the first row. No row may have more than `row_bytes_max` bytes.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn begin(input: R, row_bytes_max: usize) -> Result<Self, TableError> {
        let mut rows = Self { input, row_bytes_max, read: 0, names: Vec::new() };
        let mut names = rows.cells()?.ok_or(TableError::Empty)?;
        if let Some(first) = names.first_mut()
            && let Some(rest) = first.strip_prefix('\u{feff}')
        {
            *first = rest.to_owned();
        }
        rows.names = names.iter().map(|name| name.trim().to_owned()).collect();
        Ok(rows)
    }

    /// The first row as it stands.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// What each column is: whether of numbers, and of which name.
    pub fn columns(&self) -> impl Iterator<Item = (bool, &str)> {
        self.names().map(|name| match name.strip_prefix('#') {
            Some(name) => (true, name),
            None => (false, name),
        })
    }

    /// Bytes read so far.
    pub const fn bytes_read(&self) -> u64 {
        self.read
    }

    /// The cells of the next row; `None` at the end. Empty lines are none.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn next_row(&mut self) -> Result<Option<Vec<String>>, TableError> {
        let Some(cells) = self.cells()? else { return Ok(None) };
        let (found, wanted) = (cells.len(), self.names.len());
        if found == wanted { Ok(Some(cells)) } else { Err(TableError::Cells { found, wanted }) }
    }

    fn cells(&mut self) -> Result<Option<Vec<String>>, TableError> {
        loop {
            let Some(text) = self.record()? else { return Ok(None) };
            let text = text.strip_suffix('\n').unwrap_or(&text);
            let text = text.strip_suffix('\r').unwrap_or(text);
            if !text.is_empty() {
                return split(text).map(Some);
            }
        }
    }

    /// A line, and those behind it while a quote is open.
    fn record(&mut self) -> Result<Option<String>, TableError> {
        let mut record = Vec::new();
        let mut is_open = false;
        loop {
            // One byte more than there may be tells that there are more.
            let left = (self.row_bytes_max + 1).saturating_sub(record.len());
            let taken = (&mut self.input).take(left as u64).read_until(b'\n', &mut record)?;
            self.read += taken as u64;
            if record.len() > self.row_bytes_max {
                return Err(TableError::TooLong(self.row_bytes_max));
            }
            let line = record.get(record.len() - taken..).unwrap_or_default();
            is_open ^= line.iter().filter(|&&byte| byte == b'"').count() % 2 == 1;
            match taken {
                0 if record.is_empty() => return Ok(None),
                0 if is_open => return Err(TableError::Quote),
                0 => break,
                _ if is_open => {}
                _ => break,
            }
        }
        String::from_utf8(record).map(Some).map_err(|_| TableError::NotUtf8)
    }
}

fn split(text: &str) -> Result<Vec<String>, TableError> {
    let mut cells = Vec::new();
    let mut rest = text;
    loop {
        let cell = match rest.strip_prefix('"') {
            Some(mut quoted) => {
                let mut cell = String::new();
                loop {
                    let (text, behind) = quoted.split_once('"').ok_or(TableError::Quote)?;
                    cell.push_str(text);
                    match behind.strip_prefix('"') {
                        Some(behind) => {
                            cell.push('"');
                            quoted = behind;
                        }
                        None => {
                            rest = behind;
                            break cell;
                        }
                    }
                }
            }
            None => {
                let (cell, behind) = rest.split_at(rest.find(',').unwrap_or(rest.len()));
                rest = behind;
                if cell.contains('"') {
                    return Err(TableError::Quote);
                }
                cell.to_owned()
            }
        };
        cells.push(cell);
        if rest.is_empty() {
            return Ok(cells);
        }
        rest = rest.strip_prefix(',').ok_or(TableError::Quote)?;
    }
}

/// Writes a row, quoting what needs it: an only cell that is empty as well, since an empty line is no row.
///
/// # Errors
/// Those of `out`.
pub fn write_row<'a>(out: &mut impl Write, cells: impl Iterator<Item = &'a str>) -> io::Result<()> {
    let mut line = String::new();
    for (index, cell) in cells.enumerate() {
        if index > 0 {
            line.push(',');
        }
        if cell.contains([',', '"', '\n', '\r']) {
            line.push('"');
            line.push_str(&cell.replace('"', "\"\""));
            line.push('"');
        } else {
            line.push_str(cell);
        }
    }
    if line.is_empty() {
        line.push_str("\"\"");
    }
    line.push_str("\r\n");
    out.write_all(line.as_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(text: &[u8]) -> Result<Vec<Vec<String>>, String> {
        let told = |error: TableError| error.to_string();
        let mut rows = Rows::begin(text, 100).map_err(told)?;
        let mut all = vec![rows.names().map(str::to_owned).collect()];
        while let Some(row) = rows.next_row().map_err(told)? {
            all.push(row);
        }
        assert_eq!(rows.bytes_read(), text.len() as u64);
        Ok(all)
    }

    #[test]
    fn a_table_is_read_a_row_at_a_time() {
        let text = "\u{feff}SN, #V,KEY\r\n1,2,a\n\n\"a,\"\"b\"\"\nc\",,\"\"\r\nx,y,z";
        let rows = all(text.as_bytes()).unwrap();
        assert_eq!(rows, [["SN", "#V", "KEY"], ["1", "2", "a"], ["a,\"b\"\nc", "", ""], ["x", "y", "z"]]);
        let rows = Rows::begin("SN,#V".as_bytes(), 100).unwrap();
        assert_eq!(rows.columns().collect::<Vec<_>>(), [(false, "SN"), (true, "V")]);
    }

    #[test]
    fn what_is_no_table_is_refused() {
        let check = |text: &[u8], expected: TableError| assert_eq!(all(text), Err(expected.to_string()));
        check(b"", TableError::Empty);
        check(b"\n\r\n", TableError::Empty);
        check(b"a,b\n1\n", TableError::Cells { found: 1, wanted: 2 });
        check(b"a,b\n1,2,\n", TableError::Cells { found: 3, wanted: 2 });
        check(b"a\n1\"2\"\n", TableError::Quote);
        check(b"a\n\"1\"2\n", TableError::Quote);
        check(b"a\n\"1", TableError::Quote);
        check(b"a\n\xff\n", TableError::NotUtf8);
        let endless = [b"a\n\"", &*vec![b'\n'; 200]].concat();
        check(&endless, TableError::TooLong(100));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(cells in prop::collection::vec("[a-c,\"\n;=]{0,8}", 1..5)) {
            let mut text = Vec::new();
            write_row(&mut text, cells.iter().map(|_| "h")).unwrap();
            write_row(&mut text, cells.iter().map(String::as_str)).unwrap();
            let mut rows = Rows::begin(&*text, 1_000).unwrap();
            prop_assert_eq!(rows.next_row().unwrap(), Some(cells));
            prop_assert!(rows.next_row().unwrap().is_none());
        }
    }
}
