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
#[pyo3(signature = (texts, vocab_size, pattern=None, progress=None))]
fn train<'py>(
    py: Python<'py>,
    texts: &Bound<'py, PyAny>,
    vocab_size: usize,
    pattern: Option<&str>,
    progress: Option<Py<PyAny>>,
) -> PyResult<Vec<Bound<'py, PyBytes>>> {
    let too_small = || Error(format!("vocab_size is {vocab_size}, but the 256 bytes are tokens too"));
    let wanted = vocab_size.checked_sub(256).ok_or_else(too_small)?;
    let threads = available_parallelism().map_or(1, |cores| cores.get());
    let splitter = Splitter::new(pattern.unwrap_or(DEFAULT_PATTERN))?;
    let texts = texts.clone().unbind();
    let progress = progress.as_ref();
    let merges = py.detach(|| {
        let feed = |send: Sender| Python::attach(|py| read(texts.bind(py), send, progress));
        let words = count::count(&splitter, threads, feed)?;
        bpe::merges(words, wanted, |done| Python::attach(|py| report(py, progress, "merge", done, wanted)))
    })?;
    let tokens = bpe::vocabulary(&merges);
    Ok(tokens.iter().map(|token| PyBytes::new(py, token)).collect())
}

fn read(texts: &Bound<'_, PyAny>, send: Sender, progress: Option<&Py<PyAny>>) -> PyResult<()> {
    let py = texts.py();
    let mut batch = Batch::default();
    let mut bytes = 0;
    for text in texts.try_iter()? {
        let text = text?;
        let text = text.cast::<PyString>()?.to_str()?;
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
