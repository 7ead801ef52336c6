//! Bugs that are planted on purpose: see `mutants`. In a build without the cargo feature of that name, `planted!` is `false`, and
//! nothing is left of what depends on it.

#[cfg(feature = "mutants")]
macro_rules! planted {
    ($bug:ident) => {
        $crate::mutants::is_planted($crate::mutants::Mutant::$bug)
    };
}

#[cfg(not(feature = "mutants"))]
macro_rules! planted {
    ($bug:ident) => {
        false
    };
}
