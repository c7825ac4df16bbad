// Runs an exported network on sets of images, without Python: ./segment MODEL INPUTS OUTPUT
//
// MODEL is an AOTInductor package (.pt2) or a TorchScript file (.pt), INPUTS and OUTPUT are files that torch.load and
// torch.save of Python can exchange with torch::jit::pickle_load and pickle_save: export.py writes MODEL and INPUTS.
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/script.h>

#include <fstream>
#include <iostream>
#include <iterator>
#include <string>

// In the library of interconv_kernels, which the program links to: makes its operators known to torch.
extern "C" void interconv_register_operators();

std::vector<char> read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  return {std::istreambuf_iterator<char>(file), {}};
}

// The tensors of sets of K_1, K_2, ... images (none of them empty): offsets [B+1] and set ids [N], both int32.
std::pair<at::Tensor, at::Tensor> make_sets(const at::Tensor& lengths) {
  const at::Tensor offsets = torch::cat({torch::zeros({1}, torch::kInt64), lengths.cumsum(0)});
  const at::Tensor ids = torch::arange(lengths.size(0)).repeat_interleave(lengths);
  return {offsets.to(torch::kInt32), ids.to(torch::kInt32)};
}

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: segment MODEL INPUTS OUTPUT\n";
    return 2;
  }
  interconv_register_operators();
  const torch::NoGradGuard no_grad;
  const std::string model = argv[1];
  const auto inputs = torch::jit::pickle_load(read(argv[2])).toGenericDict();
  const at::Tensor images = inputs.at("images").toTensor();
  const auto [offsets, ids] = make_sets(inputs.at("lengths").toTensor());

  at::Tensor logits;
  if (model.size() > 4 && model.substr(model.size() - 4) == ".pt2") {
    torch::inductor::AOTIModelPackageLoader package(model);
    logits = package.run({images, offsets, ids, offsets, ids})[0];  // Sets: offsets, ids, and both without empty sets
  } else {
    torch::jit::script::Module module = torch::jit::load(model);
    logits = module.forward({images, offsets, ids}).toTensor();
  }
  std::cout << "logits " << logits.sizes() << '\n';
  const std::vector<char> bytes = torch::jit::pickle_save(logits);
  std::ofstream(argv[3], std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}
