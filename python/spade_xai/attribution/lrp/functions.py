"""Which rule the functions that models call have in layer-wise relevance propagation; see `propagate`."""

# Functions by name, so that x.relu(), F.relu(x), torch.relu(x) and x.relu_() are one: R_x = R_y.
UNCHANGED = set(
    "relu relu6 leaky_relu prelu rrelu elu selu celu gelu silu mish hardswish hardtanh softplus softsign "
    "threshold sigmoid hardsigmoid logsigmoid log_sigmoid tanh tanhshrink hardshrink softshrink clamp clamp_min "
    "clamp_max clip abs square sqrt pow erf neg negative batch_norm layer_norm group_norm instance_norm rms_norm "
    "normalize local_response_norm".split()
)
PROPORTIONAL = set(
    "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d mean sum cumsum "
    "interpolate upsample fold".split()
)
LAYERS = set(
    "linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d".split()
)
SUMS = {"add", "radd", "iadd", "sub", "isub", "rsub", "subtract"}
PRODUCTS = {"mul", "rmul", "imul", "multiply"}
QUOTIENTS = {"div", "truediv", "itruediv", "true_divide", "divide"}
MATRIX_PRODUCTS = {"matmul", "rmatmul", "bmm", "mm", "mv"}
SUMS_OF_PRODUCTS = {"addmm", "baddbmm", "addbmm", "addmv"}
BOUNDED = {"clamp", "clamp_min", "clamp_max", "clip"}
MAXIMA = {"maximum", "minimum", "fmax", "fmin"}
# Scales that data is divided or multiplied by, as layer norm does within: no relevance goes to them.
CONSTANT = set(
    "softmax log_softmax norm linalg_vector_norm linalg_norm rsqrt reciprocal rtruediv rdiv var std var_mean "
    "std_mean logsumexp".split()
)
# The gradient carries relevance as it is: to the entry taken or moved.
PASS = set(
    "max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices "
    "adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d max min amax amin reshape view view_as "
    "reshape_as flatten unflatten permute transpose t T mT swapaxes swapdims movedim moveaxis contiguous squeeze "
    "unsqueeze getitem setitem select narrow chunk split tensor_split unsafe_chunk unsafe_split unbind cat concat "
    "stack hstack vstack index_select gather pad flip roll expand expand_as broadcast_to repeat repeat_interleave "
    "tile clone to float double half bfloat16 type type_as dropout dropout1d dropout2d dropout3d alpha_dropout "
    "feature_dropout feature_alpha_dropout masked_fill where pixel_shuffle pixel_unshuffle channel_shuffle unfold "
    "ravel tril triu detach requires_grad get cpu cuda diagonal".split()
)
