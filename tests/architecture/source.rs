//! Reads Rust source: which paths it writes, which items and modules it defines.

use proc_macro2::{Delimiter, Spacing, TokenStream, TokenTree};
use std::fs;
use std::io;
use std::path::Path;
use syn::visit::{self, Visit};
use syn::{Attribute, Expr, ImplItem, Item, Meta, Stmt, UseTree, Visibility};

/// A file of `src/`.
pub(crate) struct Source {
    /// Below `src/`.
    pub(crate) file: String,
    pub(crate) contents: Contents,
}

impl Source {
    /// # Errors
    /// The text is not Rust.
    pub(crate) fn read(file: &str, text: &str) -> Result<Source, String> {
        Ok(Source { file: file.to_owned(), contents: contents(file, text)? })
    }
}

/// What a file contains, in the order of its text.
#[derive(Default)]
pub(crate) struct Contents {
    pub(crate) paths: Vec<Written>,
    /// Items that are not in the body of a function: the module and the name.
    pub(crate) items: Vec<(Vec<String>, String)>,
    pub(crate) modules: Vec<Declared>,
    /// Whether the word `unsafe` stands anywhere in its code.
    pub(crate) has_unsafe: bool,
    /// `#![forbid(unsafe_code)]`, for it and the modules below.
    pub(crate) forbids_unsafe: bool,
}

/// A path as it is written; a `use` tree is one for each of its leaves.
pub(crate) struct Written {
    /// Where it stands, from the crate's root.
    pub(crate) module: Vec<String>,
    pub(crate) parts: Vec<String>,
    pub(crate) line: usize,
    /// Compiled for tests only.
    pub(crate) test: bool,
    pub(crate) role: Role,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// In code, types, patterns, attributes or the tokens of a macro.
    Code,
    /// A `use`, under the name that it brings (`*` for a glob).
    Use { name: String, re_export: bool, in_function: bool },
}

/// `mod x;` or `mod x {}`.
pub(crate) struct Declared {
    pub(crate) module: Vec<String>,
    pub(crate) inline: bool,
    pub(crate) test: bool,
}

/// All files below `src/`.
pub(crate) fn all() -> Result<Vec<Source>, String> {
    let mut texts = Vec::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut texts).map_err(|e| e.to_string())?;
    texts.sort();
    texts.iter().map(|(file, text)| Source::read(file, text)).collect()
}

fn collect(dir: &Path, below: &str, found: &mut Vec<(String, String)>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let file = format!("{below}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), &format!("{file}/"), found)?;
        } else if file.ends_with(".rs") {
            found.push((file, fs::read_to_string(entry.path())?));
        }
    }
    Ok(())
}

/// The module that a file holds, from the crate's root: empty for `lib.rs` and `main.rs`.
pub(crate) fn module_of(file: &str) -> Vec<String> {
    let mut parts: Vec<String> = file.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    match (parts.len(), parts.last().map(String::as_str)) {
        (1, Some("lib" | "main")) => parts.clear(),
        (2.., Some("mod")) => drop(parts.pop()),
        _ => {}
    }
    parts
}

fn contents(file: &str, text: &str) -> Result<Contents, String> {
    let syntax = syn::parse_file(text).map_err(|e| format!("src/{file}:{}: {e}", e.span().start().line))?;
    let mut reader = Reader { module: module_of(file), ..Reader::default() };
    reader.visit_file(&syntax);
    let tokens = text.parse::<TokenStream>().map_err(|e| format!("src/{file}: {e}"))?;
    reader.found.has_unsafe = has_word(tokens, "unsafe");
    reader.found.forbids_unsafe = syntax.attrs.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) => list.path.is_ident("forbid") && has_word(list.tokens.clone(), "unsafe_code"),
        _ => false,
    });
    Ok(reader.found)
}

#[derive(Default)]
struct Reader {
    module: Vec<String>,
    /// How many blocks of code, and how many parts that only tests compile, are open.
    blocks: usize,
    tests: usize,
    found: Contents,
}

impl Reader {
    fn write(&mut self, parts: Vec<String>, line: usize, role: Role) {
        let written = Written { module: self.module.clone(), parts, line, test: self.tests > 0, role };
        self.found.paths.push(written);
    }

    /// Visits something that has attributes.
    fn under(&mut self, attributes: &[Attribute], visit: impl FnOnce(&mut Self)) {
        let test = usize::from(attributes.iter().any(is_for_tests));
        self.tests += test;
        visit(self);
        self.tests -= test;
    }

    fn leaves(&mut self, tree: &UseTree, before: &[String], role: &dyn Fn(&str) -> Role) {
        let with = |ident: &proc_macro2::Ident| before.iter().cloned().chain([plain(ident)]).collect::<Vec<_>>();
        let (ident, name) = match tree {
            UseTree::Path(path) => return self.leaves(&path.tree, &with(&path.ident), role),
            UseTree::Group(group) => {
                return group.items.iter().for_each(|tree| self.leaves(tree, before, role));
            }
            UseTree::Glob(glob) => {
                let parts = before.iter().cloned().chain(["*".to_owned()]).collect();
                return self.write(parts, glob.star_token.spans[0].start().line, role("*"));
            }
            UseTree::Name(leaf) => (&leaf.ident, &leaf.ident),
            UseTree::Rename(leaf) => (&leaf.ident, &leaf.rename),
        };
        let mut name = plain(name);
        if name == "self" {
            name = before.last().cloned().unwrap_or(name);
        }
        self.write(with(ident), ident.span().start().line, role(&name));
    }

    /// The paths among the tokens of a macro or an attribute: a macro's syntax is its own, but a path looks alike
    /// everywhere.
    fn scan(&mut self, tokens: TokenStream) {
        let trees: Vec<TokenTree> = tokens.into_iter().collect();
        let mut i = 0;
        while let Some(tree) = trees.get(i) {
            match tree {
                TokenTree::Group(group) => self.scan(group.stream()),
                TokenTree::Ident(_) if !continues(&trees, i) => {
                    i = self.path_of_tokens(&trees, i, &[]);
                    continue;
                }
                _ => {}
            }
            i += 1;
        }
    }

    /// Reads one path, or a `use` tree, from `i`; where it ends.
    fn path_of_tokens(&mut self, trees: &[TokenTree], mut i: usize, before: &[String]) -> usize {
        let mut parts = before.to_vec();
        let mut line = 0;
        loop {
            match trees.get(i) {
                Some(TokenTree::Ident(ident)) => {
                    line = ident.span().start().line;
                    parts.push(plain(ident));
                }
                Some(TokenTree::Punct(sign)) if sign.as_char() == '*' && !parts.is_empty() => {
                    parts.push("*".to_owned());
                }
                Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace && !parts.is_empty() => {
                    let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                    let commas = |tree: &TokenTree| matches!(tree, TokenTree::Punct(sign) if sign.as_char() == ',');
                    for branch in inner.split(commas).filter(|branch| !branch.is_empty()) {
                        self.path_of_tokens(branch, 0, &parts);
                    }
                    return i + 1;
                }
                _ => break,
            }
            i += 1;
            if !(is_colon(trees.get(i), Some(Spacing::Joint)) && is_colon(trees.get(i + 1), None)) {
                break;
            }
            i += 2;
        }
        self.write(parts, line, Role::Code);
        i
    }
}

fn has_word(tokens: TokenStream, word: &str) -> bool {
    tokens.into_iter().any(|tree| match tree {
        TokenTree::Group(group) => has_word(group.stream(), word),
        TokenTree::Ident(ident) => ident == word,
        _ => false,
    })
}

fn is_colon(tree: Option<&TokenTree>, spacing: Option<Spacing>) -> bool {
    let Some(TokenTree::Punct(sign)) = tree else { return false };
    sign.as_char() == ':' && spacing.is_none_or(|spacing| sign.spacing() == spacing)
}

/// Whether this is the name of a field or a lifetime, or the rest of a longer path.
fn continues(trees: &[TokenTree], i: usize) -> bool {
    let sign = |back: usize| match i.checked_sub(back).and_then(|i| trees.get(i)) {
        Some(TokenTree::Punct(sign)) => Some(sign.as_char()),
        _ => None,
    };
    match sign(1) {
        Some('\'') => true,
        Some('.') => sign(2) != Some('.'),
        Some(':') => sign(2) == Some(':'),
        _ => false,
    }
}

fn plain(ident: &proc_macro2::Ident) -> String {
    ident.to_string().trim_start_matches("r#").to_owned()
}

/// `#[cfg(test)]`, or `#[cfg(all(test, ...))]`.
fn is_for_tests(attribute: &Attribute) -> bool {
    let Meta::List(list) = &attribute.meta else { return false };
    let tokens = list.tokens.to_string().replace(' ', "");
    list.path.is_ident("cfg") && (tokens == "test" || tokens.starts_with("all(test,"))
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast Item) {
        let (attributes, name): (&[Attribute], _) = match item {
            Item::Const(item) => (&item.attrs, Some(&item.ident)),
            Item::Enum(item) => (&item.attrs, Some(&item.ident)),
            Item::Fn(item) => (&item.attrs, Some(&item.sig.ident)),
            Item::Macro(item) => (&item.attrs, item.ident.as_ref()),
            Item::Static(item) => (&item.attrs, Some(&item.ident)),
            Item::Struct(item) => (&item.attrs, Some(&item.ident)),
            Item::Trait(item) => (&item.attrs, Some(&item.ident)),
            Item::Type(item) => (&item.attrs, Some(&item.ident)),
            Item::Union(item) => (&item.attrs, Some(&item.ident)),
            Item::Impl(item) => (&item.attrs, None),
            Item::Mod(item) => (&item.attrs, None),
            Item::Use(item) => (&item.attrs, None),
            _ => (&[], None),
        };
        if let Some(name) = name.filter(|_| self.blocks == 0) {
            self.found.items.push((self.module.clone(), plain(name)));
        }
        self.under(attributes, |reader| visit::visit_item(reader, item));
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.module.push(plain(&item.ident));
        let declared = Declared { module: self.module.clone(), inline: item.content.is_some(), test: self.tests > 0 };
        self.found.modules.push(declared);
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let re_export = !matches!(item.vis, Visibility::Inherited);
        let in_function = self.blocks > 0;
        if item.leading_colon.is_none() {
            self.leaves(&item.tree, &[], &|name| Role::Use { name: name.to_owned(), re_export, in_function });
        }
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        let attributes: &[Attribute] = match item {
            ImplItem::Const(item) => &item.attrs,
            ImplItem::Fn(item) => &item.attrs,
            ImplItem::Type(item) => &item.attrs,
            _ => &[],
        };
        self.under(attributes, |reader| visit::visit_impl_item(reader, item));
    }

    fn visit_field(&mut self, field: &'ast syn::Field) {
        self.under(&field.attrs, |reader| visit::visit_field(reader, field));
    }

    fn visit_stmt(&mut self, statement: &'ast Stmt) {
        let attributes: &[Attribute] = match statement {
            Stmt::Local(local) => &local.attrs,
            Stmt::Macro(call) => &call.attrs,
            _ => &[],
        };
        self.under(attributes, |reader| visit::visit_stmt(reader, statement));
    }

    fn visit_expr(&mut self, expression: &'ast Expr) {
        let attributes: &[Attribute] = match expression {
            Expr::Assign(expression) => &expression.attrs,
            Expr::Block(expression) => &expression.attrs,
            Expr::Call(expression) => &expression.attrs,
            Expr::ForLoop(expression) => &expression.attrs,
            Expr::If(expression) => &expression.attrs,
            Expr::Macro(expression) => &expression.attrs,
            Expr::Match(expression) => &expression.attrs,
            Expr::MethodCall(expression) => &expression.attrs,
            _ => &[],
        };
        self.under(attributes, |reader| visit::visit_expr(reader, expression));
    }

    fn visit_field_value(&mut self, value: &'ast syn::FieldValue) {
        self.under(&value.attrs, |reader| visit::visit_field_value(reader, value));
    }

    fn visit_arm(&mut self, arm: &'ast syn::Arm) {
        self.under(&arm.attrs, |reader| visit::visit_arm(reader, arm));
    }

    fn visit_block(&mut self, block: &'ast syn::Block) {
        self.blocks += 1;
        visit::visit_block(self, block);
        self.blocks -= 1;
    }

    /// `pub(in path)` names a module around, and imports nothing.
    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.leading_colon.is_none() {
            let parts = path.segments.iter().map(|segment| plain(&segment.ident)).collect();
            let line = path.segments.first().map_or(0, |segment| segment.ident.span().start().line);
            self.write(parts, line, Role::Code);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.scan(call.tokens.clone());
        visit::visit_macro(self, call);
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        if let Meta::List(list) = &attribute.meta {
            self.scan(list.tokens.clone());
        }
        visit::visit_attribute(self, attribute);
    }
}
