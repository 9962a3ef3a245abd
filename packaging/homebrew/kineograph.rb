class Kineograph < Formula
  desc "TransformerTemporalModel of diffusers on CPUs, and restored video"
  # A tap adds: homepage, url and sha256 of a release's archive.
  license "Apache-2.0"

  depends_on "cli11" => :build
  depends_on "cmake" => :build
  depends_on "nlohmann-json" => :build
  depends_on "xxhash" => :build
  depends_on "ffmpeg"
  depends_on "highway"
  depends_on "tbb"
  uses_from_macos "zlib"

  def install
    system "cmake", "-S", ".", "-B", "build", "-DKINEOGRAPH_TESTS=OFF", "-DBUILD_SHARED_LIBS=ON", *std_cmake_args
    system "cmake", "--build", "build"
    system "cmake", "--install", "build"
  end

  test do
    system bin/"kineograph", "init", "--preset", "modelscope-320", "-o", "module"
    assert_match "TransformerTemporalModel", shell_output("#{bin}/kineograph inspect module")
  end
end
