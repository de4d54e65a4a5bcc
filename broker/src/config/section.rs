//! What [`sections!`] makes of an option's lines: the field, the default, and how it is read and written.

use super::unit::Raw;

/// A table of options: one section of the file, or one entry of a list.
pub(super) trait Section {
    /// The section's comment, a line each.
    fn doc(&self) -> &'static [&'static str];

    /// Every option with its present value, in the order of the file.
    fn options(&self) -> Vec<Opt>;

    /// Reads `raw` into the option `key`; `None` where there is no such option. Bounds are not looked at: that is
    /// for [`Config::check`](super::Config::check), whatever a configuration was made from.
    fn set(&mut self, key: &str, raw: &Raw<'_>) -> Option<Result<(), String>>;
}

/// One option as it stands.
pub(super) struct Opt {
    pub(super) key: &'static str,
    /// The option's comment, a line each.
    pub(super) doc: &'static [&'static str],
    /// What it may be, where that is bounded.
    pub(super) bounds: Option<String>,
    /// The value as TOML; absent where it is not set.
    pub(super) value: Option<String>,
    /// What is wrong with the value, where something is.
    pub(super) mistake: Option<String>,
}

/// Makes structs whose fields are options: `pub name: Type = default, unit;`.
macro_rules! sections {
    ($(
        $(#[doc = $doc:literal])*
        pub struct $section:ident {
            $(
                $(#[doc = $note:literal])*
                pub $field:ident: $type:ty = $default:expr, $unit:expr;
            )*
        }
    )*) => {$(
        $(#[doc = $doc])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $section {
            $(
                $(#[doc = $note])*
                pub $field: $type,
            )*
        }

        impl Default for $section {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl $crate::config::section::Section for $section {
            fn doc(&self) -> &'static [&'static str] {
                &[$($doc),*]
            }

            fn options(&self) -> Vec<$crate::config::section::Opt> {
                use $crate::config::unit::Unit;
                vec![$({
                    let unit = $unit;
                    $crate::config::section::Opt {
                        key: stringify!($field),
                        doc: &[$($note),*],
                        bounds: Unit::<$type>::bounds(&unit),
                        value: Unit::<$type>::write(&unit, &self.$field),
                        mistake: Unit::<$type>::check(&unit, &self.$field).err(),
                    }
                },)*]
            }

            fn set(&mut self, key: &str, raw: &$crate::config::unit::Raw<'_>) -> Option<Result<(), String>> {
                use $crate::config::unit::Unit;
                match key {
                    $(stringify!($field) => {
                        Some(Unit::<$type>::read(&$unit, raw).map(|value| self.$field = value))
                    })*
                    _ => None,
                }
            }
        }
    )*};
}
pub(super) use sections;
