// The operators interconv::* of inference, for C++ programs without Python (docs/guide/cpp.md). In Python they are
// interconv_kernels/ops.py, which has the same schemas; so they are registered only when a program asks for it.
//
// Every algorithm gives the same result up to rounding, so the arguments `algorithm` and `backend` change nothing here.
// The layer is computed by the fused layer where "auto" takes it in Python (choice.py), else as `split`.
#include <array>
#include <string>
#include <vector>

#include "choice.h"
#include "tensors.h"

namespace interconv {
namespace {

using torch::headeronly::MemoryFormat;
using torch::stable::detail::from;
using Ints = std::vector<int64_t>;
using OptionalTensor = std::optional<Tensor>;

template <class... Args>
void call(const char* op, const Args&... args) {
  std::array<StableIValue, sizeof...(Args)> stack{from(args)...};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(op, "", stack.data(), TORCH_ABI_VERSION));
}

template <class... Args>
Tensor call_for_tensor(const char* op, const Args&... args) {
  std::array<StableIValue, sizeof...(Args)> stack{from(args)...};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(op, "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

MemoryFormat format_of(const Tensor& x) {
  if (x.dim() < 4 || x.dim() > 5 || x.stride(1) != 1 || x.is_contiguous()) return MemoryFormat::Contiguous;
  return x.dim() == 4 ? MemoryFormat::ChannelsLast : MemoryFormat::ChannelsLast3d;
}

Ints sizes_of(const Tensor& x) {
  Ints sizes;
  for (int64_t i = 0; i < x.dim(); ++i) sizes.push_back(x.size(i));
  return sizes;
}

Tensor new_tensor(const Tensor& like, const Ints& sizes, MemoryFormat format) {
  return torch::stable::empty(sizes, like.scalar_type(), std::nullopt, like.device(), std::nullopt, format);
}

// Dense x [N, ...] as rows [N, M] in the order of its memory.
Tensor rows_of(const Tensor& x, MemoryFormat format) {
  const int64_t columns = x.size(0) == 0 ? 0 : x.numel() / x.size(0);
  if (format == MemoryFormat::Contiguous) return torch::stable::view(x, {x.size(0), columns});
  Tensor pixels = x;  // the channels move to the end
  for (int64_t axis = 1; axis + 1 < x.dim(); ++axis) pixels = torch::stable::transpose(pixels, axis, axis + 1);
  return torch::stable::view(pixels, {x.size(0), columns});
}

Tensor set_reduce(const Tensor x, const Tensor offsets, const Tensor set_ids, bool mean, const std::string) {
  const MemoryFormat format = format_of(x);
  Ints sizes = sizes_of(x);
  sizes[0] = offsets.size(0) - 1;
  const Tensor dense = torch::stable::contiguous(x, format), out = new_tensor(x, sizes, format);
  if (out.numel() > 0 && x.size(0) == 0) return call_for_tensor("aten::zero_", out);
  call("interconv_cpp::set_reduce", rows_of(dense, format), offsets, set_ids, mean, rows_of(out, format));
  return out;
}

Tensor concat_set_mean(const Tensor u, const Tensor offsets, const Tensor set_ids, const std::string) {
  const MemoryFormat format = format_of(u);
  Ints sizes = sizes_of(u);
  sizes[1] *= 2;
  const Tensor out = new_tensor(u, sizes, format);
  if (out.numel() == 0) return out;
  const int64_t inner = format == MemoryFormat::Contiguous ? u.numel() / u.size(0) : u.size(1);
  const Tensor dense = torch::stable::contiguous(u, format);
  call("interconv_cpp::concat_set_mean", rows_of(dense, format), offsets, set_ids, inner, rows_of(out, format));
  return out;
}

struct Layer {
  Tensor u, weight;  // dense in `format`
  OptionalTensor bias, slope;
  Tensor offsets, set_ids;
  Ints stride, padding, dilation;
  MemoryFormat format;

  Tensor run() const {
    if (u.size(0) == 0) return output();
    if (!is_fused()) return split();
    const Tensor y = output();
    const bool channels_last = format == MemoryFormat::ChannelsLast;
    const auto row = [](const OptionalTensor& x) {
      return x ? OptionalTensor(torch::stable::unsqueeze(torch::stable::contiguous(*x), 0)) : x;
    };
    const Tensor u_rows = rows_of(u, format), w_rows = rows_of(weight, format), y_rows = rows_of(y, format);
    if (is_pointwise()) {
      call("interconv_cpp::pointwise_forward", u_rows, w_rows, row(bias), row(slope), offsets, set_ids, channels_last,
           pointwise_max_centered(u.size(1), weight.size(0)), y_rows);
    } else {
      call("interconv_cpp::winograd_forward", u_rows, w_rows, row(bias), row(slope), offsets, set_ids, channels_last,
           u.size(2), u.size(3), padding[0], padding[1], kWinogradMaxCentered, y_rows);
    }
    return y;
  }

 private:
  bool has_kernel(int64_t size) const { return weight.size(2) == size && weight.size(3) == size; }

  bool is_pointwise() const { return has_kernel(1) && padding == Ints{0, 0}; }

  bool is_fused() const {
    if (u.device().type() != torch::headeronly::DeviceType::CPU || u.scalar_type() != ScalarType::Float) return false;
    if (!has_avx512() || u.dim() != 4 || stride != Ints{1, 1}) return false;
    if (is_pointwise()) return true;
    return has_kernel(3) && dilation == Ints{1, 1} && std::max(padding[0], padding[1]) <= 2 &&
           u.size(1) >= kMinFusedChannels;
  }

  Tensor output() const {
    Ints sizes{u.size(0), weight.size(0)};
    for (int64_t i = 0; i + 2 < u.dim(); ++i) {
      sizes.push_back((u.size(2 + i) + 2 * padding[i] - dilation[i] * (weight.size(2 + i) - 1) - 1) / stride[i] + 1);
    }
    return new_tensor(u, sizes, format);
  }

  Tensor convolved(const Tensor& x, const Tensor& w, const OptionalTensor& b) const {
    const char* op = u.dim() == 4 ? "aten::conv2d" : "aten::conv3d";
    const Tensor y = call_for_tensor(op, x, w, b, stride, padding, dilation, int64_t{1});
    return torch::stable::contiguous(y, format);
  }

  Tensor split() const {
    const auto half = [this](int64_t i) {
      Tensor w = weight;
      return torch::stable::contiguous(torch::stable::narrow(w, 1, i * u.size(1), u.size(1)), format);
    };
    const Tensor y = convolved(u, half(0), std::nullopt);
    const Tensor t = convolved(set_reduce(u, offsets, set_ids, true, ""), half(1), bias);
    const Tensor y_rows = rows_of(y, format);
    call("interconv_cpp::set_add", OptionalTensor(y_rows), rows_of(t, format), offsets, set_ids, false, int64_t{0},
         y_rows);
    return slope ? call_for_tensor("aten::prelu", y, *slope) : y;
  }
};

Tensor run_layer(const Tensor& u, const Tensor& weight, const OptionalTensor& bias, const OptionalTensor& slope,
                 const Tensor& offsets, const Tensor& set_ids, const Ints& stride, const Ints& padding,
                 const Ints& dilation) {
  const MemoryFormat format = format_of(u) == MemoryFormat::Contiguous ? format_of(weight) : format_of(u);
  return Layer{torch::stable::contiguous(u, format),
               torch::stable::contiguous(weight, format),
               bias,
               slope,
               offsets,
               set_ids,
               stride,
               padding,
               dilation,
               format}
      .run();
}

Tensor interconv(const Tensor u, const Tensor weight, const OptionalTensor bias, const Tensor offsets,
                 const Tensor set_ids, const Ints stride, const Ints padding, const Ints dilation, const std::string,
                 const std::string) {
  return run_layer(u, weight, bias, std::nullopt, offsets, set_ids, stride, padding, dilation);
}

Tensor interconv_leaky_relu(const Tensor u, const Tensor weight, const OptionalTensor bias, const Tensor slope,
                            const Tensor offsets, const Tensor set_ids, const Ints stride, const Ints padding,
                            const Ints dilation, const std::string, const std::string) {
  return run_layer(u, weight, bias, slope, offsets, set_ids, stride, padding, dilation);
}

}  // namespace
}  // namespace interconv

// Registers the operators, once. Not for a process that imports interconv_kernels, which registers them in Python.
extern "C" __attribute__((visibility("default"))) void interconv_register_operators() {
  using Library = torch::stable::detail::StableLibrary;
  static Library schemas(Library::Kind::DEF, "interconv", nullptr, __FILE__, __LINE__);
  static Library kernels(Library::Kind::IMPL, "interconv", "CompositeExplicitAutograd", __FILE__, __LINE__);
  static const bool registered = [] {
    const std::string sets = "Tensor offsets, Tensor set_ids";
    const std::string conv = sets + ", int[] stride, int[] padding, int[] dilation, str algorithm, str backend";
    const auto add = [](const std::string& name, const std::string& arguments, auto kernel) {
      schemas.def((name + "(" + arguments + ") -> Tensor").c_str());
      kernels.impl(name.c_str(), kernel);
    };
    add("set_reduce", "Tensor x, " + sets + ", bool mean, str backend", TORCH_BOX(&interconv::set_reduce));
    add("concat_set_mean", "Tensor u, " + sets + ", str backend", TORCH_BOX(&interconv::concat_set_mean));
    const std::string layer = "Tensor u, Tensor weight, Tensor? bias, ";
    add("interconv", layer + conv, TORCH_BOX(&interconv::interconv));
    add("interconv_leaky_relu", layer + "Tensor slope, " + conv, TORCH_BOX(&interconv::interconv_leaky_relu));
    return true;
  }();
  static_cast<void>(registered);
}
