//! Values as they go in and come out, of either engine.

use std::borrow::Cow;

/// A value as it goes in or comes out, borrowed from where it is.
#[derive(Clone, PartialEq, Debug)]
pub enum Value<'v> {
    /// Nothing.
    Null,
    /// A whole number, or a flag.
    Integer(i64),
    /// A number.
    Real(f64),
    /// A text; a copy only where it is stored in another form.
    Text(Cow<'v, str>),
    /// Bytes.
    Blob(Cow<'v, [u8]>),
}

impl Value<'_> {
    /// The same, borrowed from nothing.
    pub(super) fn into_owned(self) -> Value<'static> {
        match self {
            Self::Null => Value::Null,
            Self::Integer(number) => Value::Integer(number),
            Self::Real(number) => Value::Real(number),
            Self::Text(text) => Value::Text(Cow::Owned(text.into_owned())),
            Self::Blob(bytes) => Value::Blob(Cow::Owned(bytes.into_owned())),
        }
    }

    /// How many bytes it has, some eight where it is a number.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Null | Self::Integer(_) | Self::Real(_) => 8,
            Self::Text(text) => text.len(),
            Self::Blob(bytes) => bytes.len(),
        }
    }
}

/// What a place for a value takes, whether there is one or not: PostgreSQL wants to know it before it sees the value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Whole numbers and flags.
    Integer,
    /// Numbers.
    Real,
    /// Texts.
    Text,
    /// Bytes.
    Blob,
}

/// Something that can stand at a place for a value.
pub trait Param {
    /// What it is.
    fn kind(&self) -> Kind;
    /// Its value.
    fn value(&self) -> Value<'_>;
}

/// A [`Param`] whose kind its type tells.
pub trait Typed: Param {
    /// What it is.
    const KIND: Kind;
}

macro_rules! param {
    ($($type:ty, $kind:ident, $self:ident => $value:expr;)*) => {$(
        impl Param for $type {
            fn kind(&self) -> Kind {
                Kind::$kind
            }

            fn value(&$self) -> Value<'_> {
                Value::$kind($value)
            }
        }

        impl Typed for $type {
            const KIND: Kind = Kind::$kind;
        }
    )*};
}

param! {
    i64, Integer, self => *self;
    i32, Integer, self => i64::from(*self);
    u32, Integer, self => i64::from(*self);
    bool, Integer, self => i64::from(*self);
    f64, Real, self => *self;
    str, Text, self => Cow::Borrowed(self);
    String, Text, self => Cow::Borrowed(self);
    [u8], Blob, self => Cow::Borrowed(self);
    Vec<u8>, Blob, self => Cow::Borrowed(self);
}

impl<const N: usize> Param for [u8; N] {
    fn kind(&self) -> Kind {
        Kind::Blob
    }

    fn value(&self) -> Value<'_> {
        Value::Blob(Cow::Borrowed(self))
    }
}

impl<const N: usize> Typed for [u8; N] {
    const KIND: Kind = Kind::Blob;
}

impl<T: Param + ?Sized> Param for &T {
    fn kind(&self) -> Kind {
        (**self).kind()
    }

    fn value(&self) -> Value<'_> {
        (**self).value()
    }
}

impl<T: Typed + ?Sized> Typed for &T {
    const KIND: Kind = T::KIND;
}

impl<T: Typed> Param for Option<T> {
    fn kind(&self) -> Kind {
        T::KIND
    }

    fn value(&self) -> Value<'_> {
        self.as_ref().map_or(Value::Null, Param::value)
    }
}

impl<T: Typed> Typed for Option<T> {
    const KIND: Kind = T::KIND;
}

/// A value of its own, for queries that are put together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Owned {
    /// A whole number.
    Integer(i64),
    /// A text.
    Text(String),
    /// Bytes.
    Blob(Vec<u8>),
}

impl Param for Owned {
    fn kind(&self) -> Kind {
        match self {
            Self::Integer(_) => Kind::Integer,
            Self::Text(_) => Kind::Text,
            Self::Blob(_) => Kind::Blob,
        }
    }

    fn value(&self) -> Value<'_> {
        match self {
            Self::Integer(number) => Value::Integer(*number),
            Self::Text(text) => Value::Text(Cow::Borrowed(text)),
            Self::Blob(bytes) => Value::Blob(Cow::Borrowed(bytes)),
        }
    }
}

/// The values of a statement, in the order of their places.
pub trait Params {
    /// How many there are.
    fn count(&self) -> usize;
    /// One of them, from 0.
    fn param(&self, index: usize) -> &dyn Param;
}

impl<T: Param, const N: usize> Params for [T; N] {
    fn count(&self) -> usize {
        N
    }

    fn param(&self, index: usize) -> &dyn Param {
        &self[index]
    }
}

impl Params for &[&dyn Param] {
    fn count(&self) -> usize {
        self.len()
    }

    fn param(&self, index: usize) -> &dyn Param {
        self[index]
    }
}

impl Params for Vec<Owned> {
    fn count(&self) -> usize {
        self.len()
    }

    fn param(&self, index: usize) -> &dyn Param {
        &self[index]
    }
}

/// No values.
pub const NONE: [i64; 0] = [];

/// A value as one of several of different types; see `params!`.
pub fn param<P: Param>(param: &P) -> &dyn Param {
    param
}

/// Values of different types for one statement.
macro_rules! params {
    ($($value:expr),* $(,)?) => {
        [$($crate::sql::param(&$value)),*]
    };
}
pub(crate) use params;

/// Something that a column can be read as.
pub trait Column: Sized {
    /// Reads it; `None` when the value is something else.
    fn read(value: Value<'_>) -> Option<Self>;
}

impl Column for i64 {
    fn read(value: Value<'_>) -> Option<Self> {
        if let Value::Integer(number) = value { Some(number) } else { None }
    }
}

impl Column for u32 {
    fn read(value: Value<'_>) -> Option<Self> {
        if let Value::Integer(number) = value { Self::try_from(number).ok() } else { None }
    }
}

impl Column for bool {
    fn read(value: Value<'_>) -> Option<Self> {
        if let Value::Integer(number) = value { Some(number != 0) } else { None }
    }
}

impl Column for f64 {
    fn read(value: Value<'_>) -> Option<Self> {
        if let Value::Real(number) = value { Some(number) } else { None }
    }
}

impl Column for String {
    fn read(value: Value<'_>) -> Option<Self> {
        if let Value::Text(text) = value { Some(text.into_owned()) } else { None }
    }
}

impl Column for Vec<u8> {
    fn read(value: Value<'_>) -> Option<Self> {
        if let Value::Blob(bytes) = value { Some(bytes.into_owned()) } else { None }
    }
}

impl<const N: usize> Column for [u8; N] {
    fn read(value: Value<'_>) -> Option<Self> {
        if let Value::Blob(bytes) = value { bytes.as_ref().try_into().ok() } else { None }
    }
}

impl<T: Column> Column for Option<T> {
    fn read(value: Value<'_>) -> Option<Self> {
        match value {
            Value::Null => Some(None),
            value => T::read(value).map(Some),
        }
    }
}
