"""Where alpha begins: at the networks that keep the budgets, and otherwise at none in particular.

From uniform probabilities a search must first travel to its target, and under a tight one it spends most of its alpha
steps on that: they say what is cheap, not what is good. The distribution of greatest entropy with E = T is where that
journey ends if nothing is known of the task, so the search begins there and all its steps are the task's.
"""

from __future__ import annotations

import numpy as np

from search.costs import Floats
from search.targets import Plan

SPREAD = 15.0  # nats, at most, from a block's most to its least probable candidate: p = 3e-7 can still be sampled
STEEPEST = 1e3  # of the multipliers, where a budget leaves no more than its cheapest network


def outset(plan: Plan) -> Floats:
    """log p (L, K) of greatest entropy with E = limit for the budget held to and E <= limit for all; -inf if invalid.

    p_lk ~ exp(-sum_c mu_c F_c,lk / T_c); the multipliers minimise the convex dual (maximum entropy, Jaynes 1957),
    sum_l log sum_k exp(.) + sum_c mu_c (T_c - fixed_c) / T_c, where mu_c >= 0 for all but the budget held to.
    """
    from scipy.optimize import minimize
    from scipy.special import logsumexp, softmax

    valid_LK = plan.costs.valid_LK
    cost_CLK = np.stack([budget.costs.cost_LK / budget.limit for budget in plan.budgets])
    room_C = np.array([1 - budget.costs.fixed_s / budget.limit for budget in plan.budgets])

    def logits(mu_C: Floats) -> Floats:
        tilted_LK: Floats = np.where(valid_LK, -np.einsum("c,clk->lk", mu_C, cost_CLK), -np.inf)
        return tilted_LK

    def dual(mu_C: Floats) -> tuple[float, Floats]:
        logits_LK = logits(mu_C)
        gradient_C = room_C - np.einsum("lk,clk->c", softmax(logits_LK, axis=1), cost_CLK)
        return float(logsumexp(logits_LK, axis=1).sum() + mu_C @ room_C), gradient_C

    bounds = [(-STEEPEST if c == plan.held else 0.0, STEEPEST) for c in range(len(plan.budgets))]
    found = minimize(dual, np.zeros(len(bounds)), jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-15})
    logits_LK = logits(found.x)
    log_p_LK: Floats = logits_LK - logsumexp(logits_LK, axis=1, keepdims=True)
    return np.where(valid_LK, np.maximum(log_p_LK, log_p_LK.max(1, keepdims=True) - SPREAD), -np.inf)
