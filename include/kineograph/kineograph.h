// Everything.
#pragma once

#include "kineograph/attention.h"
#include "kineograph/checkpoint.h"
#include "kineograph/communicator.h"
#include "kineograph/config.h"
#include "kineograph/convert.h"
#include "kineograph/error.h"
#include "kineograph/executor.h"
#include "kineograph/lora.h"
#include "kineograph/model.h"
#include "kineograph/modules.h"
#include "kineograph/positions.h"
#include "kineograph/tensor.h"
#include "kineograph/version.h"
