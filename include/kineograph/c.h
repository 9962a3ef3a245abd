/* The library for C, and for languages that call C.
 *
 * Every function that can fail returns a status; the text of the calling thread's last failure is
 * kineograph_last_error()'s. No exception crosses this header. Nothing is printed, but
 * for one line on stderr where the processor has no vectors that the fused engine knows. Strings are UTF-8. Results
 * are written through pointers only when a function returns KINEOGRAPH_OK, but for the tensors of forward and backward,
 * which are undefined after a failure inside the computation. Structs begin with their size in bytes, so that
 * members can be added: set them up with the KINEOGRAPH_..._INIT macros.
 *
 * Shapes below: B videos, F frames, C channels, H x W pixels, S tokens of conditioning, D their width. */
#ifndef KINEOGRAPH_C_H_
#define KINEOGRAPH_C_H_

/* C's own: NOLINTBEGIN(modernize-use-using, modernize-deprecated-headers) */

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define KINEOGRAPH_C_API
#else
#define KINEOGRAPH_C_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/** Extents and strides that a tensor can have. */
#define KINEOGRAPH_MAX_RANK 8

/** How a call ended. */
typedef enum kineograph_status {
  KINEOGRAPH_OK = 0,
  KINEOGRAPH_ARGUMENT_ERROR = 1,   /**< an argument of the wrong shape, dtype or range */
  KINEOGRAPH_CONFIG_ERROR = 2,     /**< a configuration that is unknown, inconsistent or out of range */
  KINEOGRAPH_FORMAT_ERROR = 3,     /**< a file whose bytes are not what its format says */
  KINEOGRAPH_CHECKPOINT_ERROR = 4, /**< tensors that do not fit the configuration */
  KINEOGRAPH_IO_ERROR = 5,         /**< the operating system refused */
  KINEOGRAPH_OUT_OF_MEMORY = 6,
  KINEOGRAPH_INTERNAL_ERROR = 7, /**< anything else; please report it */
  KINEOGRAPH_CANCELLED = 8       /**< on_progress ended the call; what it was to write is undefined */
} kineograph_status;

/** Element types. The model takes the first three; indices are i64 or i32. */
typedef enum kineograph_dtype {
  KINEOGRAPH_F32 = 0,
  KINEOGRAPH_F16 = 1,
  KINEOGRAPH_BF16 = 2,
  KINEOGRAPH_F64 = 3,
  KINEOGRAPH_I64 = 4,
  KINEOGRAPH_I32 = 5,
  /** In kineograph_model_options: what the checkpoint's dtype suggests. */
  KINEOGRAPH_DTYPE_AUTO = 100
} kineograph_dtype;

/** A tensor in the caller's memory. Strides count elements; all zero stands for row-major. */
typedef struct kineograph_tensor {
  void* data;                           /**< the element at index 0 of every axis */
  kineograph_dtype dtype;               /**< of the elements */
  int32_t rank;                         /**< number of axes */
  int64_t shape[KINEOGRAPH_MAX_RANK];   /**< extents of the first rank axes */
  int64_t strides[KINEOGRAPH_MAX_RANK]; /**< in elements */
} kineograph_tensor;

/** A tensor and its name in diffusers' state dict. */
typedef struct kineograph_parameter {
  const char* name;        /**< such as "transformer_blocks.0.attn1.to_q.weight" */
  kineograph_tensor value; /**< memory of its owner */
} kineograph_parameter;

/** How a model is made ready; null pointers and zeros are the defaults. */
typedef struct kineograph_model_options {
  size_t size;                    /**< of the struct, in bytes */
  const char* engine;             /**< "cpu", "reference"; null or "auto": the best one */
  const char* isa;                /**< instruction set to force, such as "avx2"; null: the best one */
  kineograph_dtype compute_dtype; /**< KINEOGRAPH_F32, KINEOGRAPH_BF16 or KINEOGRAPH_DTYPE_AUTO */
} kineograph_model_options;
#define KINEOGRAPH_MODEL_OPTIONS_INIT \
  { sizeof(kineograph_model_options), NULL, NULL, KINEOGRAPH_DTYPE_AUTO }

/** The arguments of diffusers' forward after hidden_states. Tensors with null data are not given. */
typedef struct kineograph_forward_options {
  size_t size;                             /**< of the struct, in bytes */
  int64_t num_frames;                      /**< F; hidden_states has B*F rows */
  int num_threads;                         /**< 0: KINEOGRAPH_NUM_THREADS, or all cores */
  kineograph_tensor encoder_hidden_states; /**< (B*H*W, S, D), a row a pixel, or (B, S, D), a row a video */
  kineograph_tensor timestep;              /**< (B), (1) or () */
  kineograph_tensor class_labels;          /**< (B), (1) or (), integers */
  int training;                            /**< not 0: dropout and label drops, drawn from training_seed */
  uint64_t training_seed;                  /**< the same seed drops the same again */
  /** Told how far the call is, from 0 to 1, about once a tile, by any thread at work but never by two at once; returns
   *  0 to go on, anything else to end the call with KINEOGRAPH_CANCELLED. Null: nobody is told. */
  int (*on_progress)(double done, void* progress_data);
  void* progress_data; /**< handed to on_progress */
} kineograph_forward_options;
#define KINEOGRAPH_FORWARD_OPTIONS_INIT                                                            \
  {                                                                                                \
    sizeof(kineograph_forward_options), 1, 0, {NULL, KINEOGRAPH_F32, 0, {0}, {0}},                 \
        {NULL, KINEOGRAPH_F32, 0, {0}, {0}}, {NULL, KINEOGRAPH_F32, 0, {0}, {0}}, 0, 0, NULL, NULL \
  }

/** The gradients that backward writes; tensors with null data are not computed. Nothing is added to what is there. */
typedef struct kineograph_gradients {
  size_t size;                             /**< of the struct, in bytes */
  kineograph_tensor hidden_states;         /**< of its shape; f32, f16 or bf16 */
  kineograph_tensor encoder_hidden_states; /**< likewise */
  const kineograph_parameter* parameters;  /**< contiguous f32 of the parameters' shapes; others are frozen */
  size_t num_parameters;                   /**< of parameters */
} kineograph_gradients;
#define KINEOGRAPH_GRADIENTS_INIT \
  { sizeof(kineograph_gradients), {NULL, KINEOGRAPH_F32, 0, {0}, {0}}, {NULL, KINEOGRAPH_F32, 0, {0}, {0}}, NULL, 0 }

/** diffusers' TransformerTemporalModel, made ready. Immutable: any number of threads may use one at once. */
typedef struct kineograph_model kineograph_model;

/** "0.1.0" */
KINEOGRAPH_C_API const char* kineograph_version(void);

/** Why this thread's last failed call failed, as "where: expected ..., found ...". Valid until its next failure. */
KINEOGRAPH_C_API const char* kineograph_last_error(void);

/** Opens `path`: a folder that diffusers' save_pretrained wrote, or any checkpoint file; `module` is the path of one of
 *  its temporal modules in diffusers, or null for the only one. Nothing in a pickle is executed. `options` may be null.
 */
KINEOGRAPH_C_API kineograph_status kineograph_model_open(const char* path, const char* module,
                                                         const kineograph_model_options* options,
                                                         kineograph_model** model);

/** A model of diffusers' config.json text, its weights drawn from `seed`, the same on every machine, as `dtype`. */
KINEOGRAPH_C_API kineograph_status kineograph_model_from_config(const char* config_json, uint64_t seed,
                                                                kineograph_dtype dtype,
                                                                const kineograph_model_options* options,
                                                                kineograph_model** model);

/** A model over tensors in the caller's memory, which must outlive the model and all its copies. */
KINEOGRAPH_C_API kineograph_status kineograph_model_from_state_dict(const char* config_json,
                                                                    const kineograph_parameter* parameters,
                                                                    size_t num_parameters,
                                                                    const kineograph_model_options* options,
                                                                    kineograph_model** model);

/** Lets go of a model; null is allowed. */
KINEOGRAPH_C_API void kineograph_model_free(kineograph_model* model);

/** Writes config.json and diffusion_pytorch_model.safetensors into the folder `path`. */
KINEOGRAPH_C_API kineograph_status kineograph_model_save(const kineograph_model* model, const char* path);

/** The configuration as config.json text; valid as long as the model. */
KINEOGRAPH_C_API const char* kineograph_model_config(const kineograph_model* model);
/** The engine that runs it, such as "cpu"; valid as long as the model. */
KINEOGRAPH_C_API const char* kineograph_model_engine(const kineograph_model* model);
/** The instruction set that the engine chose, such as "avx512"; valid as long as the model. */
KINEOGRAPH_C_API const char* kineograph_model_isa(const kineograph_model* model);

/** How many parameters the state dict has. */
KINEOGRAPH_C_API size_t kineograph_model_num_parameters(const kineograph_model* model);
/** The parameter at `index` in the state dict's order: its memory is the model's and may only be read. */
KINEOGRAPH_C_API kineograph_status kineograph_model_parameter(const kineograph_model* model, size_t index,
                                                              kineograph_parameter* parameter);

/** Bytes of working memory that one forward holds beyond its input, its output and the packed weights. */
KINEOGRAPH_C_API kineograph_status kineograph_model_workspace_bytes(const kineograph_model* model,
                                                                    const kineograph_tensor* hidden_states,
                                                                    const kineograph_forward_options* options,
                                                                    size_t* bytes);

/** hidden_states (B*F, C, H, W), row b*F+f is frame f of video b; f32, f16 or bf16, any strides. `sample` has its
 * shape; its memory may be hidden_states' own if the layout is the same. Discrete latents: i64 (B*F, sample_size^2) in,
 *  f32 (B*F, V-1, sample_size^2) out. Arguments are checked before any work starts. */
KINEOGRAPH_C_API kineograph_status kineograph_model_forward(const kineograph_model* model,
                                                            const kineograph_tensor* hidden_states,
                                                            const kineograph_tensor* sample,
                                                            const kineograph_forward_options* options);

/** The gradients of a loss whose gradient by forward's sample is `sample_gradient`, for the same arguments. */
KINEOGRAPH_C_API kineograph_status kineograph_model_backward(const kineograph_model* model,
                                                             const kineograph_tensor* hidden_states,
                                                             const kineograph_tensor* sample_gradient,
                                                             const kineograph_gradients* gradients,
                                                             const kineograph_forward_options* options);

#ifdef __cplusplus
}
#endif

/* NOLINTEND(modernize-use-using, modernize-deprecated-headers) */

#endif /* KINEOGRAPH_C_H_ */
