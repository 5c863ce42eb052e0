//! The Python face: convert, release the GIL, delegate, translate errors.
use crate::count::{self, Batch, Sender};
use crate::split::{Splitter, DEFAULT_PATTERN};
use crate::{bpe, Error};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};
use std::thread::available_parallelism;

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        PyValueError::new_err(error.0)
    }
}

#[pyfunction]
#[pyo3(signature = (texts, vocab_size, pattern=None))]
fn train<'py>(
    py: Python<'py>,
    texts: &Bound<'py, PyAny>,
    vocab_size: usize,
    pattern: Option<&str>,
) -> PyResult<Vec<Bound<'py, PyBytes>>> {
    let too_small = || Error(format!("vocab_size is {vocab_size}, but the 256 bytes are tokens too"));
    let wanted = vocab_size.checked_sub(256).ok_or_else(too_small)?;
    let threads = available_parallelism().map_or(1, |cores| cores.get());
    let splitter = Splitter::new(pattern.unwrap_or(DEFAULT_PATTERN))?;
    let texts = texts.clone().unbind();
    let merges = py.detach(|| -> PyResult<Vec<_>> {
        let feed = |send: Sender| Python::attach(|py| read(texts.bind(py), send));
        let words = count::count(&splitter, threads, feed)?;
        let checked = |(done, merge)| match done % 128 {
            0 => Python::attach(|py| py.check_signals()).map(|()| merge), // Ctrl-C
            _ => Ok(merge),
        };
        bpe::merges(words, wanted)?.enumerate().map(checked).collect()
    })?;
    let tokens = bpe::vocabulary(&merges);
    Ok(tokens.iter().map(|token| PyBytes::new(py, token)).collect())
}

fn read(texts: &Bound<'_, PyAny>, send: Sender) -> PyResult<()> {
    let py = texts.py();
    let mut batch = Batch::default();
    for text in texts.try_iter()? {
        batch.push(text?.cast::<PyString>()?.to_str()?);
        if batch.is_full() {
            py.detach(|| send(std::mem::take(&mut batch)))?;
            py.check_signals()?;
        }
    }
    Ok(py.detach(|| send(batch))?)
}

#[pymodule]
fn rustbpe(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("PATTERN", DEFAULT_PATTERN)?;
    module.add_function(wrap_pyfunction!(train, module)?)
}
