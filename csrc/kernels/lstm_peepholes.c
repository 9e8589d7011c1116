/* The LSTM with peepholes and a bound for c, and the passes around it; see lstm_options.h. */
#define LSTM_COUPLED 0
#include "lstm_options.h"
#include "rnn_passes.h"
