"""Plate diagrams as text: in words, as a Graphviz graph and as TikZ."""

import os
import re
import subprocess
import sys

import pyro
import pyro.distributions as dist
from plate_programs import (
    N,
    nested_model,
    rows,
)

from pyrovae.diagrams import PlateDiagram, plate_diagram


def test_vae_in_words(diagram: PlateDiagram) -> None:
    lines = str(diagram).splitlines()
    assert lines[0].startswith(f"plate data (N = {N})")
    assert lines[-2:] == ["p: z -> x", "q: x -> z (dashed)"]


def test_a_program_without_sites_is_written_empty() -> None:
    empty = plate_diagram(lambda: None)
    assert "digraph" in empty.to_dot()
    assert "tikzpicture" in empty.to_tikz()


def test_dot(diagram: PlateDiagram) -> None:
    text = diagram.to_dot()
    assert '"z" -> "x";' in text
    assert '"x" -> "z" [style=dashed, constraint=false];' in text
    assert '"x" -> "z";' not in text
    assert 'subgraph "cluster_data" {' in text
    assert f'label="data: {N}"' in text
    assert re.search(r'"x" \[style="filled"', text)
    assert not re.search(r'"z" \[style="filled"', text)
    assert text.count("{") == text.count("}")


def test_nested_clusters_in_dot() -> None:
    text = plate_diagram(nested_model, rows()).to_dot()
    outer, inner = text.index('"cluster_groups"'), text.index('"cluster_groups/data"')
    assert text.index('"alpha"') < outer < text.index('"theta"') < inner < text.index('"z"')


def test_tikz(diagram: PlateDiagram) -> None:
    text = diagram.to_tikz()
    assert text.startswith(r"\documentclass[tikz")
    assert text.rstrip().endswith(r"\end{document}")
    assert r"\node[latent] (z)" in text
    assert r"\node[observed] (x)" in text
    assert r"\draw[generative] (z) to[] (x);" in text
    assert re.search(r"\\draw\[inference\] \(x\) to\[bend right=\d+\] \(z\);", text)
    assert re.search(r"inference/.style=\{.*dashed", text)
    assert "fit=(z) (x)" in text
    assert f"data: {N}" in text


def test_names_are_escaped() -> None:
    name = 'a_"b"\\$%'

    def model() -> None:
        with pyro.plate("50%_{i}", 2):
            pyro.sample(name, dist.Normal(0.0, 1.0))

    found = plate_diagram(model)
    assert r'"a_\"b\"\\$%";' in found.to_dot()
    assert r'{a\_\\"b"\textbackslash{}\$\%' in found.to_tikz()
    assert r"50\%\_\{i\}: 2" in found.to_tikz()
    found.draw().canvas.draw()


def test_reading_and_writing_a_diagram_imports_no_matplotlib() -> None:
    code = """
import sys
from pyrovae import plate_diagram
from plate_programs import VAE, rows
diagram = plate_diagram(VAE(), rows())
print(diagram, diagram.to_dot(), diagram.to_tikz())
assert not any(name.split(".")[0] == "matplotlib" for name in sys.modules)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True)
