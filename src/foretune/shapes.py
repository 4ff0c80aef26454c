"""One vocabulary of dimensions.

`n, m` examples, `c, d` outputs, `b` block, `t, s` token, `i` input feature, `o` output feature, `p` parameter entry,
`w` label word. Annotations read `Float[Tensor, "n c t o"]`; the test suite checks them at run time.
"""

from jaxtyping import Bool, Float, Float32, Float64, Int

__all__ = ["Bool", "Float", "Float32", "Float64", "Int"]
