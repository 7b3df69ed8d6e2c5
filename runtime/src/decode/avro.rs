//! Avro to JSON in one pass over the bytes, without a tree of values in between.
//!
//! A datum comes from whoever can write to the bus, so nothing it says is believed before it is checked: lengths
//! against what is left of the datum, counts against the number of values allowed, nesting against the depth allowed.
//! Bytes after the datum are ignored, as the Python consumer ignores them. A map that holds a key twice becomes JSON
//! that holds it twice: finding out would cost a set per map, and readers of JSON take the last, as Python does.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::plan::{Node, Plan};
use super::{MAX_DEPTH, MAX_NODES, TOO_MANY, text};

/// Where and why a datum does not decode.
#[derive(Debug)]
pub(super) struct Fault {
    /// Bytes from the start of the datum.
    at: usize,
    what: Cow<'static, str>,
    /// Names, keys and indices on the way there, innermost first.
    path: Vec<String>,
}

struct Transcoder<'a> {
    plan: &'a Plan,
    datum: &'a [u8],
    at: usize,
    out: String,
    max_json: usize,
    nodes_left: usize,
}

type Done = Result<(), Box<Fault>>;

/// Decodes one datum to a JSON document of `max_json` bytes at most.
pub(super) fn to_json(plan: &Plan, datum: &[u8], max_json: usize) -> Result<String, Box<Fault>> {
    // JSON repeats the names of fields: half as much again as the datum is about what the shipped schemas need.
    let capacity = datum.len() + datum.len() / 2 + 64;
    let out = String::with_capacity(capacity.min(max_json));
    let mut transcoder = Transcoder { plan, datum, at: 0, out, max_json, nodes_left: MAX_NODES };
    transcoder.value(plan.root, MAX_DEPTH)?;
    transcoder.check_output()?;
    Ok(transcoder.out)
}

// === impl Transcoder ===

impl<'a> Transcoder<'a> {
    /// Writes the value at hand. `depth` levels of nesting are left.
    fn value(&mut self, node: usize, depth: usize) -> Done {
        if self.nodes_left == 0 {
            return Err(self.fault(TOO_MANY));
        }
        self.nodes_left -= 1;
        self.check_output()?;
        match &self.plan.nodes[node] {
            Node::Null => self.out.push_str("null"),
            Node::Boolean => self.boolean()?,
            Node::Int => self.int()?,
            Node::Long => {
                let long = self.long()?;
                text::push_long(&mut self.out, long);
            }
            Node::Float => {
                let float = f32::from_le_bytes(self.array()?);
                self.number(float.is_finite(), float.is_nan(), float.is_sign_negative(), &float);
            }
            Node::Double => {
                let double = f64::from_le_bytes(self.array()?);
                self.number(double.is_finite(), double.is_nan(), double.is_sign_negative(), &double);
            }
            Node::Bytes => {
                let bytes = self.sized()?;
                self.base64(bytes);
            }
            Node::Fixed(size) => {
                let bytes = self.take(*size)?;
                self.base64(bytes);
            }
            Node::String => {
                let text = self.text()?;
                text::push_string(&mut self.out, text);
            }
            Node::Enum(symbols) => {
                let start = self.at;
                let index = self.long()?;
                let symbol = usize::try_from(index).ok().and_then(|index| symbols.get(index));
                let symbol = symbol.ok_or_else(|| {
                    self.fault_at(start, format!("symbol {index} of an enum with {} symbols", symbols.len()))
                })?;
                text::push_string(&mut self.out, symbol);
            }
            Node::Nullable { null, value } => match self.branch(2)? == usize::from(*null) {
                true => self.out.push_str("null"),
                false => self.value(*value, depth)?,
            },
            Node::Union(branches) => {
                let branch = &branches[self.branch(branches.len())?];
                if matches!(self.plan.nodes[branch.node], Node::Null) {
                    self.out.push_str("null");
                } else {
                    let depth = self.deeper(depth)?;
                    self.out.push('{');
                    text::push_string(&mut self.out, &branch.tag);
                    self.out.push(':');
                    self.value(branch.node, depth).map_err(|fault| fault.inside(&branch.tag))?;
                    self.out.push('}');
                }
            }
            Node::Record(fields) => {
                let depth = self.deeper(depth)?;
                self.out.push('{');
                for field in fields {
                    self.out.push_str(&field.prefix);
                    self.value(field.node, depth).map_err(|fault| fault.inside(&field.name))?;
                }
                self.out.push('}');
            }
            Node::Array(items) => {
                let depth = self.deeper(depth)?;
                self.out.push('[');
                let mut index = 0_u64;
                while let Some(count) = self.block()? {
                    for _ in 0..count {
                        if index > 0 {
                            self.out.push(',');
                        }
                        self.value(*items, depth).map_err(|fault| fault.inside(&index.to_string()))?;
                        index += 1;
                    }
                }
                self.out.push(']');
            }
            Node::Map(values) => {
                let depth = self.deeper(depth)?;
                self.out.push('{');
                let mut first = true;
                while let Some(count) = self.block()? {
                    for _ in 0..count {
                        if !std::mem::take(&mut first) {
                            self.out.push(',');
                        }
                        let key = self.text()?;
                        text::push_string(&mut self.out, key);
                        self.out.push(':');
                        self.value(*values, depth).map_err(|fault| fault.inside(key))?;
                    }
                }
                self.out.push('}');
            }
        }
        Ok(())
    }

    fn boolean(&mut self) -> Done {
        match self.array()? {
            [0] => self.out.push_str("false"),
            [1] => self.out.push_str("true"),
            [byte] => return Err(self.fault_at(self.at - 1, format!("byte {byte} is no boolean"))),
        }
        Ok(())
    }

    fn int(&mut self) -> Done {
        let start = self.at;
        let long = self.long()?;
        if i32::try_from(long).is_err() {
            return Err(self.fault_at(start, format!("{long} is no int")));
        }
        text::push_long(&mut self.out, long);
        Ok(())
    }

    /// Rust's `{:?}` of a float is the shortest text that reads back as the same value, and is JSON.
    fn number(&mut self, finite: bool, nan: bool, negative: bool, number: &dyn fmt::Debug) {
        if finite {
            // Writing to a String cannot fail.
            let _ = write!(self.out, "{number:?}");
        } else {
            self.out.push_str(match (nan, negative) {
                (true, _) => "\"NaN\"",
                (_, false) => "\"Infinity\"",
                (_, true) => "\"-Infinity\"",
            });
        }
    }

    fn base64(&mut self, bytes: &[u8]) {
        self.out.push('"');
        STANDARD.encode_string(bytes, &mut self.out);
        self.out.push('"');
    }

    /// The number of items in the next block of an array or map; none after the last block.
    fn block(&mut self) -> Result<Option<u64>, Box<Fault>> {
        let start = self.at;
        let count = self.long()?;
        if count < 0 {
            // A negative count is followed by the block's size in bytes, for readers that skip.
            self.long()?;
        }
        match count.unsigned_abs() {
            0 => Ok(None),
            // Said before the first item: items may take no bytes at all, so nothing else would stop a huge count.
            count if count > self.nodes_left as u64 => Err(self.fault_at(start, TOO_MANY)),
            count => Ok(Some(count)),
        }
    }

    fn branch(&mut self, branches: usize) -> Result<usize, Box<Fault>> {
        let start = self.at;
        let index = self.long()?;
        match usize::try_from(index) {
            Ok(branch) if branch < branches => Ok(branch),
            _ => Err(self.fault_at(start, format!("branch {index} of a union of {branches}"))),
        }
    }

    fn text(&mut self) -> Result<&'a str, Box<Fault>> {
        let bytes = self.sized()?;
        str::from_utf8(bytes).map_err(|error| {
            let at = self.at - bytes.len() + error.valid_up_to();
            self.fault_at(at, "a string is not UTF-8")
        })
    }

    fn sized(&mut self) -> Result<&'a [u8], Box<Fault>> {
        let start = self.at;
        let length = self.long()?;
        let Ok(length) = usize::try_from(length) else {
            return Err(self.fault_at(start, format!("a length of {length}")));
        };
        self.take(length)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Box<Fault>> {
        let bytes = self.datum[self.at..].first_chunk();
        let bytes = *bytes.ok_or_else(|| self.cut_short(N))?;
        self.at += N;
        Ok(bytes)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Box<Fault>> {
        let bytes = self.datum[self.at..].get(..count).ok_or_else(|| self.cut_short(count))?;
        self.at += count;
        Ok(bytes)
    }

    /// A zigzag number of variable length: seven bits a byte, the lowest first.
    fn long(&mut self) -> Result<i64, Box<Fault>> {
        let start = self.at;
        let mut zigzag = 0_u64;
        for shift in (0..64).step_by(7) {
            let Some(&byte) = self.datum.get(self.at) else { return Err(self.cut_short(1)) };
            self.at += 1;
            if shift == 63 && byte > 1 {
                break;
            }
            zigzag |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed());
            }
        }
        Err(self.fault_at(start, "a number of more than 64 bits"))
    }

    fn deeper(&self, depth: usize) -> Result<usize, Box<Fault>> {
        depth.checked_sub(1).ok_or_else(|| self.fault(format!("nested deeper than {MAX_DEPTH} levels")))
    }

    fn check_output(&self) -> Done {
        if self.out.len() > self.max_json {
            return Err(self.fault(format!("as JSON it is longer than {} bytes", self.max_json)));
        }
        Ok(())
    }

    #[cold]
    fn cut_short(&self, wanted: usize) -> Box<Fault> {
        let left = self.datum.len() - self.at;
        self.fault(format!("it ends here: {wanted} more bytes belong to this value, {left} are left"))
    }

    #[cold]
    fn fault(&self, what: impl Into<Cow<'static, str>>) -> Box<Fault> {
        self.fault_at(self.at, what)
    }

    #[cold]
    fn fault_at(&self, at: usize, what: impl Into<Cow<'static, str>>) -> Box<Fault> {
        Box::new(Fault { at, what: what.into(), path: Vec::new() })
    }
}

// === impl Fault ===

impl Fault {
    #[cold]
    fn inside(mut self: Box<Self>, name: &str) -> Box<Self> {
        self.path.push(text::cut(name));
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (byte {}", self.what, self.at)?;
        if !self.path.is_empty() {
            f.write_str(", at ")?;
            text::write_pointer(f, self.path.iter().rev())?;
        }
        f.write_str(")")
    }
}
