"""How to descend: one solver a file, one loop (``driver``) for all, and the choice among them."""

import importlib

# name -> (module, class); imported when first used
SOLVERS = {
    "gd": ("gradient_descent", "GradientDescent"),
    "nesterov": ("nesterov", "Nesterov"),
    "lbfgs": ("lbfgs", "LBFGS"),
    "newton": ("newton", "Newton"),
    "newton-cg": ("newton_cg", "NewtonCG"),
    "saga": ("saga", "Saga"),
    "cd": ("coordinate", "CoordinateDescent"),
    "sgd": ("minibatch", "SGD"),
    "adam": ("minibatch", "Adam"),
    "least-squares": ("least_squares", "LeastSquares"),
    "interior-point": ("interior_point", "InteriorPoint"),
    "dual": ("dual", "DualCoordinateDescent"),
}
STOCHASTIC = ("saga", "sgd", "adam")
DIRECT_LIMIT = 1500  # columns, or rows, up to which least squares are solved directly
NEWTON_LIMIT = 200  # parameters up to which a Hessian costs few passes
SPARSE_SYSTEM, DENSE_SYSTEM = 300, 1000  # rows or columns of the largest for interior points
KEPT_PROBABILITIES = 1 << 22  # of rows and classes, that conjugate gradients may keep
SAME_AS_AUTO = ("newton-cholesky", "liblinear", "sag")


def solver_class(name):
    """The class of a built-in solver."""
    module, cls = SOLVERS[name]
    return getattr(importlib.import_module(f"{__name__}.{module}"), cls)


def choose(objective):
    """The name of the fastest solver that reaches the optimum of ``objective``."""
    if not getattr(objective.loss, "smooth", True):
        return (
            "interior-point"
            if _factorisable(objective) or solver_class("dual").refusal(objective)
            else "dual"
        )
    if not objective.penalty.smooth:
        return "cd" if not solver_class("cd").refusal(objective) else "nesterov"
    blocks, K = objective.blocks, objective.n_outputs
    if getattr(objective.loss, "quadratic", False) and min(blocks.X.shape) <= DIRECT_LIMIT:
        if not solver_class("least-squares").refusal(objective):
            return "least-squares"
    if blocks.sparse and blocks.n_features > NEWTON_LIMIT and not solver_class("dual").refusal(objective):
        return "dual"
    if K > 1 and blocks.n_rows * K > max(KEPT_PROBABILITIES, blocks.n_entries // 4):
        return "lbfgs"  # keeps nothing per row and class
    # a multinomial Hessian is too large to factorise: conjugate gradients supply what its metric leaves out
    return "newton" if K == 1 and objective.metric_size <= NEWTON_LIMIT else "newton-cg"


def _factorisable(objective):
    """Whether the systems of the interior point method are formed quickly."""
    return min(objective.blocks.X.shape) <= (SPARSE_SYSTEM if objective.blocks.sparse else DENSE_SYSTEM)


def make_solver(solver, objective, settings, draw_seed):
    """The solver of that name, or a user's own class, for an objective.

    Raises
    ------
    ValueError
        If it cannot reach the optimum; the message names the solvers that can.
    """
    if callable(solver):
        return solver(objective, settings)
    name = choose(objective) if solver == "auto" or solver in SAME_AS_AUTO else solver
    if name not in SOLVERS:
        known = ", ".join(map(repr, ["auto", *SOLVERS, *SAME_AS_AUTO]))
        raise ValueError(f"solver={solver!r} is not known; it must be one of {known}, or a class of your own")
    cls = solver_class(name)
    reason = cls.refusal(objective)
    if reason:
        able = ", ".join(repr(other) for other in SOLVERS if not solver_class(other).refusal(objective))
        raise ValueError(
            f"solver={solver!r} cannot reach the optimum: {reason}. Solvers that can: 'auto', {able}."
        )
    cls = cls.variant(objective) if hasattr(cls, "variant") else cls
    if name in STOCHASTIC:
        settings = settings._replace(seed=draw_seed())
    return cls(objective, settings)
