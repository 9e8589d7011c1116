/* The LSTM whose input gate is 1 - f, and the passes around it; see lstm.c. */
#define LSTM_COUPLED 1
#include "lstm.c"
