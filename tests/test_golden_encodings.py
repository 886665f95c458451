"""Position encodings against golden numbers, computed in float64 from the formulas of the papers and the
released code.
"""

import json

import numpy as np
import pytest
import torch

import tslab

# golden name -> key and the parameters that its JSON does not hold
CASES = {
    "space2vec_theory_F16": ("space2vec_theory", {}),
    "space2vec_grid_F64": ("space2vec_grid", {}),
    "sphere2vec_sphereCplus_F8": ("sphere2vec_sphereC+", {}),
    "sphere2vec_sphereM_F8": ("sphere2vec_sphereM", {}),
    "sphere2vec_sphereMplus_F8": ("sphere2vec_sphereM+", {"preset": "locbench2024"}),
    "sphere2vec_sphereC_F64": ("sphere2vec_sphereC", {}),
    "sphere2vec_sphereCplus_F64": ("sphere2vec_sphereC+", {}),
    "sphere2vec_sphereM_F64": ("sphere2vec_sphereM", {}),
    "sphere2vec_dfs_F4": ("sphere2vec_dfs", {"preset": "locbench2024"}),
    "sphere2vec_dfs_F8": ("sphere2vec_dfs", {"preset": "locbench2024"}),
    "nerf_F16": ("nerf", {}),
    "xyz": ("xyz", {}),
    "wrap": ("wrap", {}),
    "rbf_K40": ("rbf", {}),
    "rff_F64": ("rff", {}),
}
RENAMED = {"frequency_num": "num_scales", "min_radius": "min_radius", "max_radius": "max_radius"}


def build(name, golden, arrays):
    key, parameters = CASES[name]
    configuration = json.loads((golden / "position_encodings.json").read_text())[name]
    parameters = parameters | {new: configuration[old] for old, new in RENAMED.items() if old in configuration}
    if key == "rbf":
        return tslab.position_encoder(
            key, kernel_size=configuration["kernel_size"], anchors=torch.from_numpy(arrays["rbf_anchors"])
        )
    encoder = tslab.position_encoder(key, **parameters)
    if key == "rff":
        encoder.directions = torch.from_numpy(arrays["rff_directions"]).T.contiguous()
        encoder.shift = torch.from_numpy(arrays["rff_shift"])
    return encoder


@pytest.fixture(scope="module")
def arrays(golden):
    return dict(np.load(golden / "position_encodings.npz"))


def test_every_golden_configuration_has_a_case(golden):
    assert set(CASES) == set(json.loads((golden / "position_encodings.json").read_text()))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-9)])
@pytest.mark.parametrize("name", CASES)
def test_golden(name, dtype, tolerance, golden, arrays):
    encoder = build(name, golden, arrays)
    lonlat = torch.from_numpy(arrays["lonlat"])
    exact_in_float32 = torch.equal(lonlat, lonlat.float().double())
    assert exact_in_float32, "the golden places must be float32 numbers, or the comparison measures their rounding"
    encoded = encoder(lonlat.to(dtype))
    assert encoded.dtype == dtype
    assert encoded.shape == arrays[name].shape == (len(lonlat), encoder.out_features)
    if name == "rff_F64":
        tolerance = max(tolerance, 2e-7)  # the golden directions and phases are float32
    assert np.abs(encoded.double().numpy() - arrays[name]).max() <= tolerance
