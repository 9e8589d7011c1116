/* The LSTM whose input gate is 1 - f, with peepholes and a bound for c, and the passes around it;
 * see lstm_options.h. */
#define LSTM_COUPLED 1
#include "lstm_options.h"
#include "rnn_passes.h"
