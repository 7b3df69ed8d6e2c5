//! A schema, made flat: whatever running it needs is an index away, and no name is looked up while it runs.

use std::collections::HashMap;

use apache_avro::Schema;
use apache_avro::schema::{InnerDecimalSchema, Name, UuidSchema};

use super::defaults;

/// A compiled schema.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) nodes: Vec<Node>,
    pub(super) root: usize,
}

/// One type. A `usize` is the index of another node.
///
/// Logical types are what they lie in: decimals and durations are bytes, dates and times are numbers, UUIDs are
/// strings (or bytes, if the schema says so). A handler that wants more knows its schema; numbers and text are what
/// every language can read without loss.
#[derive(Debug)]
pub(super) enum Node {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    Fixed(usize),
    Enum(Vec<String>),
    Array(usize),
    Map(usize),
    /// A union of null and one other type: the value or `null`.
    Nullable {
        /// Which of the two branches is null, 0 or 1.
        null: u8,
        value: usize,
    },
    /// Any other union: tagged with the branch's name.
    Union(Vec<Branch>),
    Record(Vec<Field>),
}

/// One branch of a union.
#[derive(Debug)]
pub(super) struct Branch {
    /// The full name of a named type, else the name of the type: Avro's own JSON encoding.
    pub(super) tag: String,
    pub(super) node: usize,
}

/// One field of a record.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: String,
    /// What JSON says before the value: `"name":`, after a comma except in the first field.
    pub(super) prefix: String,
    pub(super) node: usize,
    /// The schema's default as a datum.
    pub(super) default: Option<Vec<u8>>,
}

struct Compiler<'s> {
    nodes: Vec<Node>,
    named: HashMap<String, usize>,
    /// Defaults are encoded once all nodes are there: record, index of the field, the default as the schema has it.
    defaults: Vec<(usize, usize, &'s serde_json::Value)>,
}

// === impl Plan ===

impl Plan {
    /// Compiles a schema. The error says what is wrong with it.
    pub(super) fn compile(schema: &Schema) -> Result<Self, String> {
        let mut compiler = Compiler { nodes: Vec::new(), named: HashMap::new(), defaults: Vec::new() };
        let root = compiler.node(schema)?;
        let Compiler { mut nodes, defaults, .. } = compiler;
        for (record, index, value) in defaults {
            let Node::Record(fields) = &nodes[record] else { continue };
            let Field { name, node, .. } = &fields[index];
            let datum =
                defaults::encode(&nodes, *node, value).map_err(|wrong| format!("default of {name}: {wrong}"))?;
            if let Node::Record(fields) = &mut nodes[record] {
                fields[index].default = Some(datum);
            }
        }
        Ok(Self { nodes, root })
    }
}

// === impl Compiler ===

impl<'s> Compiler<'s> {
    fn node(&mut self, schema: &'s Schema) -> Result<usize, String> {
        let node = match schema {
            Schema::Null => Node::Null,
            Schema::Boolean => Node::Boolean,
            Schema::Int | Schema::Date | Schema::TimeMillis => Node::Int,
            Schema::Long
            | Schema::TimeMicros
            | Schema::TimestampMillis
            | Schema::TimestampMicros
            | Schema::TimestampNanos
            | Schema::LocalTimestampMillis
            | Schema::LocalTimestampMicros
            | Schema::LocalTimestampNanos => Node::Long,
            Schema::Float => Node::Float,
            Schema::Double => Node::Double,
            Schema::Bytes | Schema::BigDecimal | Schema::Uuid(UuidSchema::Bytes) => Node::Bytes,
            Schema::String | Schema::Uuid(UuidSchema::String) => Node::String,
            Schema::Decimal(decimal) => match &decimal.inner {
                InnerDecimalSchema::Bytes => Node::Bytes,
                InnerDecimalSchema::Fixed(fixed) => return self.fixed(&fixed.name, fixed.size),
            },
            Schema::Fixed(fixed) | Schema::Duration(fixed) | Schema::Uuid(UuidSchema::Fixed(fixed)) => {
                return self.fixed(&fixed.name, fixed.size);
            }
            Schema::Enum(schema) => {
                let node = self.define(&schema.name, Node::Enum(schema.symbols.clone()))?;
                self.alias(&schema.name, &schema.aliases, node);
                return Ok(node);
            }
            Schema::Array(array) => Node::Array(self.node(&array.items)?),
            Schema::Map(map) => Node::Map(self.node(&map.types)?),
            Schema::Union(union) => self.union(union.variants())?,
            Schema::Record(record) => {
                let node = self.define(&record.name, Node::Record(Vec::new()))?;
                self.alias(&record.name, &record.aliases, node);
                let mut fields = Vec::with_capacity(record.fields.len());
                for (index, field) in record.fields.iter().enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    let name = field.name.clone();
                    // Avro's names are letters, digits and underscores: nothing that JSON would escape.
                    let prefix = format!("{comma}\"{name}\":");
                    fields.push(Field { prefix, node: self.node(&field.schema)?, default: None, name });
                    self.defaults.extend(field.default.as_ref().map(|default| (node, index, default)));
                }
                self.nodes[node] = Node::Record(fields);
                return Ok(node);
            }
            Schema::Ref { name } => {
                let name = name.fullname(None);
                return self.named.get(&name).copied().ok_or_else(|| format!("type {name} is not defined"));
            }
        };
        self.nodes.push(node);
        Ok(self.nodes.len() - 1)
    }

    fn union(&mut self, variants: &'s [Schema]) -> Result<Node, String> {
        if let [Schema::Null, value] | [value, Schema::Null] = variants {
            let null = u8::from(!matches!(variants[0], Schema::Null));
            return Ok(Node::Nullable { null, value: self.node(value)? });
        }
        let branches = variants.iter().map(|variant| Ok(Branch { node: self.node(variant)?, tag: self.tag(variant) }));
        Ok(Node::Union(branches.collect::<Result<_, String>>()?))
    }

    /// What a value of this type is called in a union.
    fn tag(&self, schema: &Schema) -> String {
        if let Schema::Decimal(decimal) = schema
            && let InnerDecimalSchema::Fixed(fixed) = &decimal.inner
        {
            return fixed.name.fullname(None);
        }
        if let Some(name) = schema.name() {
            return name.fullname(None);
        }
        match schema {
            Schema::Null => "null",
            Schema::Boolean => "boolean",
            Schema::Int | Schema::Date | Schema::TimeMillis => "int",
            Schema::Float => "float",
            Schema::Double => "double",
            Schema::Bytes | Schema::BigDecimal | Schema::Decimal(_) | Schema::Uuid(UuidSchema::Bytes) => "bytes",
            Schema::String | Schema::Uuid(_) => "string",
            Schema::Array(_) => "array",
            Schema::Map(_) => "map",
            _ => "long",
        }
        .to_owned()
    }

    fn fixed(&mut self, name: &Name, size: usize) -> Result<usize, String> {
        self.define(name, Node::Fixed(size))
    }

    fn define(&mut self, name: &Name, node: Node) -> Result<usize, String> {
        let index = self.nodes.len();
        let name = name.fullname(None);
        if self.named.contains_key(&name) {
            return Err(format!("type {name} is defined twice"));
        }
        self.named.insert(name, index);
        self.nodes.push(node);
        Ok(index)
    }

    fn alias(&mut self, name: &Name, aliases: &apache_avro::schema::Aliases, node: usize) {
        for alias in aliases.iter().flatten() {
            self.named.entry(alias.fullname(name.namespace())).or_insert(node);
        }
    }
}
