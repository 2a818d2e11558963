"""One fit per call, by each implementation, on the same rows: `x.npy` in the folder that is named.

Each rig has `fit()`, which returns nothing that takes time, and `found()`, which returns the atoms' recovery and the error of that fit.
"""

import os
from importlib.metadata import version

import numpy as np
import torch


class Rig:
    def __init__(self, folder, n_features, n_neurons, n_iter, seed=0, **more):
        self.x = torch.from_numpy(np.load(os.path.join(folder, "x.npy")))
        self.truth = torch.from_numpy(np.load(os.path.join(folder, "atoms.npy")))
        self.k, self.s, self.n_iter, self.seed, self.more = n_features, n_neurons, n_iter, seed, more
        self.version = self.start()

    def found(self):
        z, y = self.factors()  # [F, D], [n, F]
        error = float((self.x - y @ z).square().sum() / self.x.square().sum())
        cosine = torch.nn.functional.normalize(self.truth, dim=1) @ torch.nn.functional.normalize(z, dim=1).T
        return {"error": error, "recovered": float((_matched(cosine) > 0.9).float().mean())}


def _matched(cosine):
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(-cosine.numpy())
    return cosine[rows, columns]


class Armillary(Rig):
    """Ours in memory; `solver="multiplicative"` is the paper's loop, with our products."""

    def start(self):
        from armillary.methods.snmf import solver
        from armillary.methods.snmf.updates import Budget

        self.solver = solver
        self.stop = self.more.pop("stop", None)  # the iteration after which to look no further, whatever the plan
        self.plan = solver.Plan(self.k, Budget(self.s, is_signed=self.more.pop("is_signed", True)), n_iter=self.n_iter, **self.more)
        return version("armillary")

    def fit(self):
        with torch.no_grad():
            data = self.solver.Data(self.x)
            if self.stop is None:
                self.result = self.solver.solve(data, self.plan, seed=self.seed)
                return
            self.result = self.solver.begun(data, self.plan, self.seed)
            for i in range(self.stop):
                self.solver.iterate(self.result, data, self.plan, i)

    def factors(self):
        return self.result.atoms, self.result.codes.T

    def errors(self):
        return self.result.errors


class Stream(Rig):
    """Ours with 2,000 rows in memory and the others streaming by, and the codes of all rows at the end."""

    def start(self):
        import armillary as arm

        self.method = arm.SemiNMF(n_features=self.k, neurons_per_feature=self.s, max_rows=2000, batch_size=2000)
        return version("armillary")

    def fit(self):
        self.result = self.method.fit(self.x, seed=self.seed)
        self.codes = self.result.encode(self.x).dense()

    def factors(self):
        return self.result.dictionary.atoms, self.codes


class Overcomplete(Rig):
    """Its multiplicative updates, from the random codes that its own `fit` draws."""

    def start(self):
        import sys
        from unittest.mock import MagicMock

        for name in ("timm", "timm.data", "torchvision", "torchvision.transforms"):  # for its vision models only
            sys.modules.setdefault(name, MagicMock())
        from overcomplete.optimization import SemiNMF

        self.kind = SemiNMF
        return version("overcomplete")

    def fit(self):
        torch.manual_seed(self.seed)
        self.model = self.kind(self.k, tol=0.0)
        with torch.no_grad():
            self.codes, self.atoms = self.model.fit(self.x, max_iter=self.n_iter)

    def factors(self):
        return self.atoms, self.codes


class ScikitLearn(Rig):
    def start(self):
        import sklearn
        from sklearn.decomposition import NMF

        self.kind = NMF
        return sklearn.__version__

    def fit(self):
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it did not converge is what was asked for
            self.model = self.kind(self.k, init=self.more["init"], max_iter=self.n_iter, tol=0, random_state=self.seed)
            self.codes = self.model.fit_transform(self.x.numpy())

    def factors(self):
        return torch.from_numpy(self.model.components_), torch.from_numpy(self.codes)


RIGS = {"armillary": Armillary, "stream": Stream, "overcomplete": Overcomplete, "scikit-learn": ScikitLearn}


def build(name, kind, **settings):
    return RIGS[kind](**settings)
