"""A network trained by the loop that every network is trained by: in NumPy, then with GDMLPClassifier.

Random start, forward pass, cross-entropy, backpropagation, step; repeat until the loss is at a threshold or
the number of epochs at a limit. Both go the same way; the losses are drawn into network_loss.png.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import make_moons

from skbigmodel import GDMLPClassifier

WIDTH, RATE, THRESHOLD, LIMIT = 10, 1.0, 0.1, 5000
X, y = make_moons(200, noise=0.15, random_state=0)

# 1. start: uniform numbers, fewer and smaller in wide layers
rng, parameters = np.random.RandomState(0), []
for shape in ((2, WIDTH), (WIDTH, 1)):
    bound = np.sqrt(6 / sum(shape))
    parameters += [rng.uniform(-bound, bound, shape), rng.uniform(-bound, bound, shape[1])]

losses = []
while len(losses) < LIMIT and (not losses or losses[-1] > THRESHOLD):
    W, b, V, c = parameters
    hidden = np.tanh(X @ W + b)  # 2. forward
    p = 1 / (1 + np.exp(-(hidden @ V + c)[:, 0]))
    losses.append(-np.mean(np.where(y == 1, np.log(p), np.log(1 - p))))  # 3. cross-entropy
    dz = (p - y)[:, None] / len(y)  # 4. backward: what the loss gains with the last layer's raw output,
    dh = dz @ V.T * (1 - hidden**2)  # and with that of the hidden layer
    gradient = [X.T @ dh, dh.sum(axis=0), hidden.T @ dz, dz.sum(axis=0)]
    parameters = [value - RATE * slope for value, slope in zip(parameters, gradient)]  # 5. step

model = GDMLPClassifier(
    WIDTH, "tanh", solver="sgd", momentum=0, learning_rate_init=RATE, alpha=0, batch_size=len(X),
    shuffle=False, max_iter=LIMIT, loss_threshold=THRESHOLD, tol=0, n_iter_no_change=np.inf, random_state=0,
).fit(X, y)  # fmt: skip

print(f"by hand:         {len(losses)} epochs, loss {losses[-1]:.6f}")
print(f"GDMLPClassifier: {model.n_iter_} epochs, loss {model.loss_:.6f}, accuracy {model.score(X, y):.3f}")
plt.semilogx(np.arange(1, 1 + len(losses)), losses, linewidth=5, color="0.8", label="by hand")
plt.semilogx(np.arange(1, 1 + model.n_iter_), model.loss_curve_, label="loss_curve_")
plt.xlabel("epoch"), plt.ylabel("loss"), plt.legend()
plt.savefig("network_loss.png")
