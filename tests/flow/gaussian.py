"""What an ideal network says on Gaussian data, whatever it was asked to predict."""

import torch

from rectiflow.flow.predictions import EdmPrediction


class Ideal:
    """The minimiser of a formulation's loss on data ~ Normal(0, covariance), in float64.

    It sees what a network sees, and finds x and t from that alone.
    """

    def __init__(self, form, covariance):
        self.form, self.covariance = form, covariance

    def __call__(self, x_in, t_in):
        x, t = self._read(x_in, t_in)
        c = self.form.path.coefficients(t.view(-1, 1, 1))
        of_x = c.alpha**2 * self.covariance + c.sigma**2 * torch.eye(2, dtype=torch.float64)
        whitened = torch.linalg.solve(of_x, x[:, :, None])
        data, noise = c.alpha * self.covariance @ whitened, c.sigma * whitened
        p, q = self.form.prediction.mixture(c)
        return (p * data + q * noise).squeeze(-1)

    def _read(self, x_in, t_in):
        if not isinstance(self.form.prediction, EdmPrediction):
            return x_in, t_in
        sigma = torch.exp(4 * t_in)  # EDM's c_noise and c_in, undone
        return x_in * (sigma.square() + 0.25).sqrt().view(-1, 1), sigma / 80
