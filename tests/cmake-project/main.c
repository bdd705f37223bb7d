/* Prunes a 1 x 2 layer: with H = diag(4, 1) the second weight, 1 * 1 < 1 * 4, goes first. */
#include <spade/spade.h>
#include <stdio.h>
#include <string.h>

int main(void) {
  const double h[4] = {4, 0, 0, 1}, w[2] = {1, 1};
  double hinv[4], damp_used, loss[2];
  int32_t order[2], info[1];
  if (spade_damped_inverse_f64(h, 2, 0.0, hinv, NULL, &damp_used, 1, NULL) != SPADE_SUCCESS)
    return 1;
  if (hinv[0] != 0.25 || hinv[1] != 0 || hinv[3] != 1 || damp_used != 0) return 2;
  if (spade_obc_trace_f64(w, hinv, 1, 2, 2, order, loss, info, 1, NULL) != SPADE_SUCCESS) return 3;
  if (order[0] != 1 || order[1] != 0 || loss[0] != 0.5 || loss[1] != 2 || info[0] != 0) return 4;
  if (spade_obc_trace_f64(w, hinv, -1, 2, 2, order, loss, info, 1, NULL) != SPADE_INVALID_ARGUMENT)
    return 5;
  if (strcmp(spade_last_error(), "spade_obc_trace: R must be in [0, 2^31), got -1") != 0) return 6;
  printf("libspade %s works from C\n", spade_version());
  return 0;
}
