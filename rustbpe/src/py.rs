//! The Python face: convert, release the GIL, delegate, translate errors.

use crate::count::{self, Batch, Sender};
use crate::split::{Splitter, DEFAULT_PATTERN};
use crate::{bpe, Error};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};
use std::num::NonZero;
use std::thread::available_parallelism;

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        PyValueError::new_err(error.0)
    }
}

#[pyfunction]
#[pyo3(signature = (texts, vocab_size, pattern=None, progress=None, threads=None))]
fn train<'py>(
    py: Python<'py>,
    texts: &Bound<'py, PyAny>,
    vocab_size: i64,
    pattern: Option<&str>,
    progress: Option<Py<PyAny>>,
    threads: Option<NonZero<usize>>,
) -> PyResult<Vec<Bound<'py, PyBytes>>> {
    if vocab_size < 256 {
        return Err(PyValueError::new_err(format!("vocab_size is {vocab_size}, but the 256 bytes are tokens too")));
    }
    let wanted = vocab_size as usize - 256;
    let threads = threads.or(available_parallelism().ok()).map_or(1, NonZero::get);
    let splitter = Splitter::new(pattern.unwrap_or(DEFAULT_PATTERN))?;
    let texts = texts.clone().unbind();
    let words = py.detach(|| {
        count::count(&splitter, threads, |send| {
            Python::attach(|py| read(texts.bind(py), send, progress.as_ref()))
        })
    })?;
    let tokens = py.detach(|| {
        bpe::merges(words, wanted, |done| Python::attach(|py| report(py, progress.as_ref(), "merge", done, wanted)))
            .map(|merges| bpe::vocabulary(&merges))
    })?;
    Ok(tokens.iter().map(|token| PyBytes::new(py, token)).collect())
}

fn read(texts: &Bound<'_, PyAny>, send: Sender, progress: Option<&Py<PyAny>>) -> PyResult<()> {
    let py = texts.py();
    let mut batch = Batch::default();
    let mut bytes = 0;
    for (i, text) in texts.try_iter()?.enumerate() {
        let text = text?;
        let Ok(text) = text.cast::<PyString>() else {
            let kind = text.get_type().name()?;
            return Err(PyTypeError::new_err(format!("texts[{i}] is of type {kind}, not str")));
        };
        let text = text.to_str().map_err(|_| {
            PyValueError::new_err(format!("texts[{i}] holds a lone surrogate, which UTF-8 cannot encode"))
        })?;
        batch.push(text);
        bytes += text.len();
        if batch.is_full() {
            py.detach(|| send(std::mem::take(&mut batch)))?;
            report(py, progress, "count", bytes, 0)?;
        }
    }
    py.detach(|| send(batch))?;
    report(py, progress, "count", bytes, 0)
}

fn report(py: Python<'_>, progress: Option<&Py<PyAny>>, phase: &str, done: usize, total: usize) -> PyResult<()> {
    py.check_signals()?;
    if let Some(progress) = progress {
        progress.call1(py, (phase, done, total))?;
    }
    Ok(())
}

#[pymodule]
fn rustbpe(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("PATTERN", DEFAULT_PATTERN)?;
    module.add_function(wrap_pyfunction!(train, module)?)
}
